"""How good a list is, for whom, and what it shows of the catalogue."""
