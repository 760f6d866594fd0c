"""Balance what neutral prompts of a text-to-image pipeline show, and say what that did."""
