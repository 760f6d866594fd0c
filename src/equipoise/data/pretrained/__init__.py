"""Encoders of images and texts with weights that packages ship: real features without a download.

Names are loaded when first touched; the list of them is `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
