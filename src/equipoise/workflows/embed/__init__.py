"""From answers about distances to places, and what they are worth."""
