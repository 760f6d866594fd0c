"""The public names of `equipoise.multimodal`; entries stand beside this file, by topic."""

PACKAGES = ["multimodal"]

ENTRIES: list = []
