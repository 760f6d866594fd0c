"""Layers whose part of a tangent kernel needs no Jacobian: what goes in and what comes back is enough.

The gradient of a linear layer for a sample is Σ_t δ_t a_tᵀ over positions t, with inputs a and gradients δ of the
output. So the part of its kernel is Σ_{t,u} (a_it · a_ju)(δ_it · δ_ju), or the product of the summed gradients,
whichever is less work. Convolutions are linear layers on patches, word vectors linear layers on one-hot inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

Kind: TypeAlias = Literal["linear", "embedding", "scale"]


@dataclass(frozen=True)
class Features:
    """What the kernel of a layer is made of, for a block of samples.

    Attributes:
        kind: "linear": weights times inputs; "embedding": rows of a table; "scale": elementwise weights.
        inputs: (n, positions, inputs); of an embedding (n, positions), −1 for what has no gradient.
        deltas: (outputs, n, positions, width), gradients of the model's outputs for the layer's.
        weight: whether the weights count.
        bias: whether the bias counts.
    """

    kind: Kind
    inputs: Tensor
    deltas: Tensor
    weight: bool
    bias: bool


@dataclass(frozen=True)
class Reading:
    """How a layer is read.

    Attributes:
        kind: as in `Features`.
        inputs: the layer's input → `Features.inputs`.
        rows: a gradient of its output → (n, positions, width).
    """

    kind: Kind
    inputs: Callable[[Tensor], Tensor]
    rows: Callable[[Tensor], Tensor]


def reading(layer: nn.Module) -> Reading | None:
    """How this layer is read; None for one whose gradients must be taken sample by sample."""
    if isinstance(layer, nn.Linear) or _is_transposed_linear(layer):
        return Reading("linear", _positions, _positions)
    if isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros":
        return Reading("linear", lambda x: _patches(layer, x), _channels_last)
    if isinstance(layer, nn.Embedding) and layer.max_norm is None and not layer.scale_grad_by_freq:
        none = layer.padding_idx
        return Reading("embedding", lambda ids: _ids(ids, none), _positions)
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) == 1:
        return Reading(
            "scale", lambda x: _positions(functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)), _positions
        )
    if isinstance(layer, nn.RMSNorm) and len(layer.normalized_shape) == 1:
        return Reading(
            "scale", lambda x: _positions(functional.rms_norm(x, layer.normalized_shape, eps=layer.eps)), _positions
        )
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.running_mean is not None:
        return Reading("scale", lambda x: _channels_last(_standardised(layer, x)), _channels_last)
    return None


def _is_transposed_linear(layer: nn.Module) -> bool:
    """transformers' `Conv1D`, a linear layer whose weight is (inputs, outputs)."""
    return type(layer).__name__ == "Conv1D" and type(layer).__module__.startswith("transformers.")


def _positions(x: Tensor) -> Tensor:
    return x.reshape(len(x), math.prod(x.shape[1:-1]), x.shape[-1])


def _channels_last(x: Tensor) -> Tensor:
    return x.reshape(len(x), x.shape[1], -1).transpose(1, 2)


def _ids(ids: Tensor, none: int | None) -> Tensor:
    flat = ids.reshape(len(ids), -1)
    return flat if none is None else flat.masked_fill(flat == none, -1)


def _standardised(layer: Any, x: Tensor) -> Tensor:
    return functional.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)


def _patches(layer: nn.Conv1d | nn.Conv2d, x: Tensor) -> Tensor:
    flat = isinstance(layer, nn.Conv1d)
    size, step, spread = ((1, *each) if flat else each for each in (layer.kernel_size, layer.stride, layer.dilation))
    if isinstance(layer.padding, str):
        whole = [gap * (k - 1) if layer.padding == "same" else 0 for gap, k in zip(spread, size, strict=True)]
        around = [side for total in reversed(whole) for side in (total // 2, total - total // 2)]
    else:
        around = [side for width in reversed((0, *layer.padding) if flat else layer.padding) for side in (width, width)]
    image = functional.pad(x[:, :, None] if flat else x, around)
    return functional.unfold(image, size, dilation=spread, stride=step).transpose(1, 2)


def contraction(one: Features, other: Features, limit: int) -> Tensor:
    """(outputs, outputs, n, n'), the part of a layer in the kernel of two blocks of samples, float64.

    Args:
        one: of the first block.
        other: of the second block; the same object for a block with itself.
        limit: bytes that intermediate results may take.
    """
    outputs, n, m = len(one.deltas), one.deltas.shape[1], other.deltas.shape[1]
    total = torch.zeros(outputs, outputs, n, m, dtype=torch.float64, device=one.deltas.device)
    if one.kind == "scale":
        if one.weight:
            _add_products(total, *((each.deltas * each.inputs).sum(2) for each in (one, other)))
    elif one.weight:
        _add_weights(total, one, other, limit)
    if one.bias:
        _add_products(total, one.deltas.sum(2), other.deltas.sum(2))
    return total


def _add_products(total: Tensor, one: Tensor, other: Tensor) -> None:
    """Add the inner products of (outputs, n, ...) vectors."""
    flat = [each.flatten(2).double() for each in (one, other)]
    for a, left in enumerate(flat[0]):
        for b, right in enumerate(flat[1]):
            total[a, b].addmm_(left, right.T)


def _add_weights(total: Tensor, one: Features, other: Features, limit: int) -> None:
    outputs, n, positions, width = one.deltas.shape
    m, others = other.deltas.shape[1:3]
    linear = one.kind == "linear"
    size = one.inputs.shape[-1] if linear else 1
    by_time = n * m * positions * others * ((size if linear else 1) + outputs**2 * width)
    by_weight = outputs * width * size * (n * positions + m * others) + n * m * outputs**2 * width * size
    if linear and positions > 1 and by_weight < by_time:
        _by_weight(total, one, other, limit)
    else:
        _by_time(total, one, other, limit)


def _by_weight(total: Tensor, one: Features, other: Features, limit: int) -> None:
    """Gradients of some rows of the weights at a time, all samples."""
    outputs, n, _, width = one.deltas.shape
    size = one.inputs.shape[-1]
    samples = n if one is other else n + other.deltas.shape[1]
    rows = max(1, limit // (16 * outputs * samples * size))
    for start in range(0, width, rows):
        sides = [
            torch.einsum("cntr,nti->cnri", each.deltas[..., start : start + rows].double(), each.inputs.double())
            for each in ((one,) if one is other else (one, other))
        ]
        _add_products(total, sides[0], sides[-1])


def _by_time(total: Tensor, one: Features, other: Features, limit: int) -> None:
    """Products of inputs and of gradients at all pairs of positions, some samples at a time."""
    outputs, n, positions, _ = one.deltas.shape
    m, others = other.deltas.shape[1:3]
    rows = max(1, limit // (24 * positions * m * others))
    right_inputs = other.inputs.flatten(0, 1)
    right_inputs = right_inputs.double() if other.kind == "linear" else right_inputs
    right_deltas = [each.flatten(0, 1).double() for each in other.deltas]
    for start in range(0, n, rows):
        inputs = one.inputs[start : start + rows].flatten(0, 1)
        if one.kind == "linear":
            alike = inputs.double() @ right_inputs.T
        else:
            alike = ((inputs[:, None] == right_inputs) & (inputs >= 0)[:, None]).double()
        for a in range(outputs):
            left = one.deltas[a, start : start + rows].flatten(0, 1).double()
            for b in range(outputs):
                product = (left @ right_deltas[b].T).mul_(alike)
                total[a, b, start : start + rows] += product.view(-1, positions, m, others).sum((1, 3))
