"""The true label high in its list."""
