"""From a language model and texts to a small adapter."""
