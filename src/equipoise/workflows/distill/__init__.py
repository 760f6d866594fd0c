"""From a teacher and texts to a student, and where the two differ."""
