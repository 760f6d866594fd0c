"""From prompts and their pictures to what a text-to-image model hides."""
