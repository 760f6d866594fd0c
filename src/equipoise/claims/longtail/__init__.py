"""The claims of `longtail`, one module per paper."""
