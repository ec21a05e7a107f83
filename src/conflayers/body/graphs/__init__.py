"""Passes of a few tokens on an accelerator: kernels of our own, launched together as one graph."""
