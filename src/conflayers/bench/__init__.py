"""The benchmark: methods in turns on one machine, every number with its settings beside it."""
