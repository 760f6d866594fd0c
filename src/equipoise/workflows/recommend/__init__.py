"""From a log of who took what to lists for everybody, and what they are worth."""
