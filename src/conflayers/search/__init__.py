"""From a model and prompts of a task to a saved plan: every method's search, within a budget, resumable."""
