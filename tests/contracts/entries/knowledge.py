"""The public names of `equipoise.knowledge`; those of models and geometry stand in `knowledge_models.py`."""

ENTRIES = []

OTHERS = {}
