"""Exact sums over all pairs of a positive and a negative: the loss, its kernels, its surrogates."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
