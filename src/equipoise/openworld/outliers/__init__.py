"""Detectors of unknown inputs, and training with outliers."""
