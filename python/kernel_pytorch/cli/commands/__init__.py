"""One module per command: its options, and what it prints. Heavy imports are inside functions."""
