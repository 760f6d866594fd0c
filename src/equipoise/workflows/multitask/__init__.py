"""From a table of many tasks to linear models of each, alone and together, and what togetherness is worth."""
