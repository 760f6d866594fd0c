"""Equipoise: train and judge models where averages mislead.

`import equipoise` is light: a room is loaded when it is first touched, e.g. `equipoise.ranking.auroc`.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
