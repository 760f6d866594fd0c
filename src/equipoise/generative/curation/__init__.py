"""Identity data sets, cleaned, filled up, and checked against a protected set."""
