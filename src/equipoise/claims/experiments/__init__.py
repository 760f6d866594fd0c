"""A module a paper, `<slug with underscores>.py`, that defines `CLAIM`."""
