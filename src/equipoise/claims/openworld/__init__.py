"""The claims of `openworld`, one module per paper."""
