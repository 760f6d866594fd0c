"""The public names of `equipoise.generative`; entries stand beside this file, by topic."""

PACKAGES = ["generative"]

ENTRIES: list = []
