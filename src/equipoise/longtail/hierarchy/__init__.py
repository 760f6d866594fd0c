"""Labels on a tree."""
