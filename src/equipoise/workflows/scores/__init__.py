"""`equipoise evaluate`."""
