"""Experts for unknown class proportions."""
