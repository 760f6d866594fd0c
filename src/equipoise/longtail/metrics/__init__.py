"""Measures of the long tail: groups, trees, experts, neural collapse."""
