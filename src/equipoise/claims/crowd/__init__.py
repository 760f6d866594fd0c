"""The claims of `crowd`, one module per paper."""
