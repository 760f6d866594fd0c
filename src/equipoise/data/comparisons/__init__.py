"""Answers of people who compare things: which of two, which is nearer, and who said so."""
