"""Which sublayers a draft skips: one paper a file."""
