"""What the relations of a graph look like before a model is chosen."""
