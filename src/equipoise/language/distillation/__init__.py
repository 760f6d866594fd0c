"""Losses between the distributions of a teacher and a student, and how hard and soft labels are mixed."""
