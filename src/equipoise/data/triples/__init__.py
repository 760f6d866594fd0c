"""Triples of a knowledge graph: data sets, files, known answers, small worlds."""
