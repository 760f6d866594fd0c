"""Partial rankings: a consensus, each person's own ranking with ties, and who does not follow the crowd."""
