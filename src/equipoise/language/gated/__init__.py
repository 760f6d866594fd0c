"""Gated units, neural tangent kernels, their spectra, and the training curves these predict."""
