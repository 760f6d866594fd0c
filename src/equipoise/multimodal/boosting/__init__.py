"""Modalities trained in turns, so that the fastest does not stop the others."""
