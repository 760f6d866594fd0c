"""The equipoise command."""
