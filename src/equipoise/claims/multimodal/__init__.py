"""The claims of `multimodal`, one module per paper."""
