"""Many related linear tasks: which of them, and which features, belong together."""
