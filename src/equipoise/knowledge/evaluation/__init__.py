"""Filtered ranking of link prediction, its metrics and reports."""
