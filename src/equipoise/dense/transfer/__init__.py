"""Segmentation of a domain without labels: styles of each class, and a network that keeps fine texture."""
