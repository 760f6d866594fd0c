"""Divergences between the next-token distributions of a teacher and a student, without a copy of the logits."""
