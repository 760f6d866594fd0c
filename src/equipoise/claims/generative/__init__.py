"""The claims of `generative`, one module per paper."""
