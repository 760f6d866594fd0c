"""The room `equipoise.language`; its names are entered by topic in `language_*.py`."""

PACKAGES = ["language"]
