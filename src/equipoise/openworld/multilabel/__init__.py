"""The relevant labels of a sample before the others."""
