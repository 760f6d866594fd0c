"""Saddle problems, proximal maps, sharpness-aware steps and perturbations."""
