"""Losses with a weight, a factor and an offset per class."""
