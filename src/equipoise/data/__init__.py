"""Embedded data sets, file readers, splits and samplers."""
