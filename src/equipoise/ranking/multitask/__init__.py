"""A ranking for every user."""
