"""Losses of triples, and a trainer for one process or many."""
