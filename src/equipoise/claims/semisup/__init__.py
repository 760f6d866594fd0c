"""The claims of `semisup`, one module per paper."""
