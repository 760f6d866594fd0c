"""Saddle and bilevel problems, proximal maps, sharpness-aware steps and perturbations."""
