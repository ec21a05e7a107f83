"""What self-speculative decoding would bring where nothing can be run: predictions, not measurements."""
