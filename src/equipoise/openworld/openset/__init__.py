"""Known or unknown, and which of the known."""
