"""The public names of `equipoise.dense` stand in the modules of its parts, `dense_*.py`."""

PACKAGES = ["dense"]
