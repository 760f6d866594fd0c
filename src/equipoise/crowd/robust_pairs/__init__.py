"""Scores from pairwise answers of which some are wrong, and the list of those that should not be trusted."""
