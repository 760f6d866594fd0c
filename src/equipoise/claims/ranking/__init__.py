"""The claims of `ranking`, one module per paper."""
