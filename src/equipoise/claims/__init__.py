"""One experiment a paper, written only against the public API: what it claims, measured beside a baseline."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
