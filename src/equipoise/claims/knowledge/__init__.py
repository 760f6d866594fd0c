"""The claims of `knowledge`, one module per paper."""
