"""From embeddings of two modalities to how well they match."""
