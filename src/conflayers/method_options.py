"""What the methods can be told, by name, and what each option means."""

from dataclasses import fields

from conflayers.selectors.rule import Settings

CONFLAYERS_OPTIONS = {
    "variant": "'default' sets all by itself; 'paper' searches and drafts as published; 'rule' has lambda by hand",
    "fallback": "decode plainly where drafts do not pay (True; 'paper' and 'rule': False)",
    "interval": "rounds that a plan drafts before another may (8); 'paper': rounds of a trial (30)",
    "context_window": "tokens whose confidences are averaged (32); 'paper' and 'rule': (100)",
    "unit": "'paper' and 'rule': 'layer' as published, or 'sublayer' to skip attention and MLP separately",
    "window": "'paper' and 'rule': the same window for every layer instead of the adaptive one",
    "lam": "'rule': lambda, higher skips less (0)",
    "confidence": "'rule': 'low' as published, or 'high' to skip as many layers of highest confidence ('low')",
    "skip_ratio": "'paper': least share of the layers to skip, 0 to 1 (0.4)",
    "max_iterations": "'paper': candidates tried before the search ends (100)",
    "max_score": "'paper': the search ends at this mean acceptance (0.95)",
    "min_accepted": "'paper': ... if also more tokens than this are accepted a round (4)",
}
AUTO_OPTIONS = {
    "fallback": "decode plainly where nothing pays (True)",
    "interval": CONFLAYERS_OPTIONS["interval"],
    "context_window": "tokens whose confidences are averaged (32)",
    "lookup": "also look up what came after the same words before (True)",
    "views": "also draft in lower precision, where that is faster; views of the weights take memory (True)",
}
# What every method that drafts takes, beside the drafter's options.
COMMON_OPTIONS = {
    "fallback": "decode plainly where drafts and search lose time (False; True by default with 'auto' and 'conflayers')"
}
# Which variant of ConfLayers takes which options.
VARIANTS = {
    "default": {"interval", "context_window"},
    "paper": {f.name for f in fields(Settings)},
    "rule": {"lam", "confidence", "unit", "context_window", "window"},
}
SWIFT_OPTIONS = {
    "skip_ratio": "share of the sublayers to skip, 0 to 1 (0.45)",
    "context_window": "generated tokens that candidates are scored on (50)",
    "bayes_interval": "every so-many-th candidate is proposed by Bayesian optimisation (25); 0 for none",
    "max_iterations": "candidates scored before the search ends (1000)",
    "max_tolerance": "... or in a row without a better one (300)",
    "max_score": "... or a share of tokens matched above this (0.93)",
    "plan_seed": "of the random candidates (2024)",
}
CLASP_OPTIONS = {
    "skip_ratio": "share of the layers to skip, 0 to 1 (0.5)",
    "interval": "verifications between two searches (128)",
}
KNAPSPEC_OPTIONS = {
    "interval": "verifications between two searches (64)",
    "rounds": "verifications whose tokens are looked at (5)",
    "budget": "most share of the weight to skip, 0 to 1 (0.5)",
}
COSINE_OPTIONS = {
    "threshold": "an attention is skipped above this cosine of what goes in and comes out (0.985)",
    "context_window": "tokens of the prompt's end that are looked at (32)",
}
DRAFT_VERIFY_OPTIONS = {
    "max_iterations": "candidates that `conflayers search` scores at most (1000)",
    "plan_seed": "of everything random in that search (1)",
}
