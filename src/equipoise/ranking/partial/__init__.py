"""Partial AUC: only the pairs that spend the budget."""
