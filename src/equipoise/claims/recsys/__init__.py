"""The claims of `recsys`, one module per paper."""
