"""Rare mistakes in recorded procedures."""
