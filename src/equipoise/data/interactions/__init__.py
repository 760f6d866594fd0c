"""Who took what: implicit feedback, its readers and its splits."""
