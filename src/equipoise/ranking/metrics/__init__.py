"""How well scores rank: areas under ROC and precision-recall curves, whole and in part."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
