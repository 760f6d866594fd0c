"""`equipoise bench`."""
