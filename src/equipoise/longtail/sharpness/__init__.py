"""Flat minima for rare classes."""
