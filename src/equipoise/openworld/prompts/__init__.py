"""Text prompts: tuned for base classes, mixed by gates, or chosen as negatives."""
