"""Regularisers of the factors of triples."""
