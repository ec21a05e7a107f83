"""How draft tokens are proposed: one idea a file."""
