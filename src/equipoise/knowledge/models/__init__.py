"""Models that score triples."""
