"""`equipoise fit` and `predict`."""
