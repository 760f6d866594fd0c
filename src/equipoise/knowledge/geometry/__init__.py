"""Curved spaces and rotations."""
