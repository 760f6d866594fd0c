"""Average precision, and retrieval by it."""
