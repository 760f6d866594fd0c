"""Neutral prompts that show every attribute value equally often and equally well."""
