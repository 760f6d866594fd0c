"""Which samples make a batch, and which samples make a long tail."""
