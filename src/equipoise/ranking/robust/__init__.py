"""AUC under attack and under distribution shift."""
