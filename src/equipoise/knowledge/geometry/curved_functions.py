"""Functions of a curved space, written so that nothing happens where its curvature is zero.

    tan_ratio(s) = tan(√s) / √s,   atan_ratio(s) = arctan(√s) / √s,   asin_ratio(s) = arcsin(√s) / √s

are one power series each, in s = κ |x|², whatever its sign: for negative s they are the same with tanh, artanh and
arsinh. Hence expmap0(v) = tan_ratio(κ|v|²) v and so on, with no norm of a zero vector and no division by √κ.

Values come from the closed forms, which are exact to rounding down to the least s; derivatives, whose closed forms
cancel near zero, from the series there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Within, a series of the terms below is exact to rounding; without, the closed form of a derivative loses two digits.
_NEAR = 0.03
_TERMS = 12


def tan_ratio(s: Tensor) -> Tensor:
    """tan(√s)/√s for 0 < s < (π/2)², tanh(√−s)/√−s below zero, and 1 at zero."""
    return _apply(_TanRatio, s)


def atan_ratio(s: Tensor) -> Tensor:
    """arctan(√s)/√s above zero, artanh(√−s)/√−s for −1 < s < 0, and 1 at zero."""
    return _apply(_AtanRatio, s)


def asin_ratio(s: Tensor) -> Tensor:
    """arcsin(√s)/√s for 0 < s < 1, arsinh(√−s)/√−s below zero, and 1 at zero."""
    return _apply(_AsinRatio, s)


def _apply(function: Any, s: Tensor) -> Tensor:
    found: Tensor = function.apply(s)
    return found


class _TanRatio(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor) -> Tensor:
        ctx.save_for_backward(s)
        return _by_sign(s, lambda root, _: root.tanh(), torch.tan)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors
        value = tan_ratio(s)
        return grads[0] * _derivative(s, lambda far: 1 + far * value.square(), value, _TAN)


class _AtanRatio(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor) -> Tensor:
        ctx.save_for_backward(s)
        return _by_sign(s, lambda root, _: root.atanh(), torch.atan)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors
        return grads[0] * _derivative(s, lambda far: 1 / (1 + far), atan_ratio(s), _ATAN)


class _AsinRatio(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, s: Tensor) -> Tensor:
        ctx.save_for_backward(s)
        return _by_sign(s, _arsinh_, torch.asin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (s,) = ctx.saved_tensors
        return grads[0] * _derivative(s, lambda far: (1 - far).rsqrt(), asin_ratio(s), _ASIN)


def _arsinh_(x: Tensor, square: Tensor) -> Tensor:
    """As `torch.asinh` of positive numbers, to rounding, at a fifth of the time; `square` is written over."""
    below = (square + 1).sqrt_().add_(1)
    return square.div_(below).add_(x).log1p_()


def _by_sign(s: Tensor, negative: Callable[[Tensor, Tensor], Tensor], positive: Callable[[Tensor], Tensor]) -> Tensor:
    """f(√|s|)/√|s| with the function of the sign of s; where all have one sign, the other is not computed.

    The function of negative s is given √−s and −s, the other √s.
    """
    size = s.abs()
    root = size.sqrt().clamp_min_(torch.finfo(s.dtype).tiny)
    if torch.compiler.is_compiling():
        least, most = -1.0, 1.0
    else:
        least, most = (each.item() for each in s.aminmax()) if s.numel() else (0.0, 0.0)
    if most <= 0:
        return negative(root, size).div_(root)
    if least >= 0:
        return positive(root).div_(root)
    return torch.where(s < 0, negative(root, size), positive(root)).div_(root)


def _derivative(s: Tensor, slope: Callable[[Tensor], Tensor], value: Tensor, series: list[float]) -> Tensor:
    """The derivative of f(√s)/√s in s, (slope − value) / 2s, where slope is f'(√s) as a function of s."""
    near = s.abs() < _NEAR
    far = torch.where(near, _NEAR, s)
    closed = (slope(far) - value) / (2 * far)
    if not torch.compiler.is_compiling() and not bool(near.any()):
        return closed
    close = torch.where(near, s, 0.0)
    power = torch.full_like(s, series[-1] * (len(series) - 1))
    for k in range(len(series) - 2, 0, -1):
        power = power * close + series[k] * k
    return torch.where(near, power, closed)


def _tan_series(terms: int) -> list[float]:
    """Coefficients of tan(√s)/√s, by its differential equation 2 s T' + T = 1 + s T²."""
    found = [1.0]
    for n in range(1, terms):
        found.append(sum(found[i] * found[n - 1 - i] for i in range(n)) / (2 * n + 1))
    return found


def _asin_series(terms: int) -> list[float]:
    found, binomial = [], 1.0
    for n in range(terms):
        found.append(binomial / (2 * n + 1))
        binomial *= (2 * n + 1) / (2 * n + 2)
    return found


_TAN = _tan_series(_TERMS)
_ATAN = [(-1.0) ** n / (2 * n + 1) for n in range(_TERMS)]
_ASIN = _asin_series(_TERMS)
