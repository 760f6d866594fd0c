"""The claims of `dense`, one module per paper."""
