"""Salient objects, large and small: metrics, reports and losses that do not weigh an object by its area."""
