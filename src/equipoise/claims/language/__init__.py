"""The claims of `language`, one module per paper."""
