"""One ranking of what a crowd compared: least squares, likelihoods, intervals, and what cannot be ranked."""
