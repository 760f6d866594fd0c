"""The empirical neural tangent kernel of any module, without its Jacobian where that can be.

K_ij = Σ_c ⟨∇f_c(x_i), ∇f_c(x_j)⟩
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equipoise.core.signature import check_finite, checked
from equipoise.core.types import Count
from equipoise.language.gated.jacobians import jacobian_kernel, sample_kernels
from equipoise.language.gated.layers import Reading, contraction, reading
from equipoise.language.gated.recording import Inputs, Readout, Recording, outputs, samples, taken
from equipoise.language.gated.two_layer import Reduction

Method = Literal["auto", "structured", "jacrev"]
# Relative difference at which a gradient found by layers is not the one that autograd finds.
_DIFFERENT = 1e-3
# Copies of a layer's inputs and outputs that a pass and its graph hold, about.
_COPIES = 4


@checked
def empirical_ntk(
    model: nn.Module,
    x: Inputs,
    params: Sequence[str] | None = None,
    *,
    reduction: Reduction = "trace",
    method: Method = "auto",
    readout: Readout | None = None,
    chunk_size: Count | None = None,
    memory_limit: Count = 1 << 29,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """The neural tangent kernel of a module at its weights.

    Linear layers, convolutions, word vectors and norms are contracted from their inputs and the gradients that come
    back to them, in O(n²) per layer and never a Jacobian; what other parameters there are, by gradients of one sample
    after another. Each layer is first held against autograd on two samples, so that weights that are shared, or used in
    ways that hooks do not see, take the second way.

    Args:
        model: in evaluation mode: no active dropout, batch norms frozen. The outputs for a sample must depend on that
            sample alone.
        x: inputs, the first dimension that of samples; or a dictionary of them, passed by name.
        params: patterns such as "*.mlp.*" or "*weight" that choose parameters by name; all that are trainable if
            absent.
        reduction: "trace" sums over outputs, "mean" is that over c, "full" keeps pairs of outputs.
        method: "structured" refuses layers that it should know and cannot contract; "auto" takes the slow way for them;
            "jacrev" is the Jacobian of all samples by `torch.func`.
        readout: from what the model returns to outputs (n, c): one token, or a mean over them.
        chunk_size: samples per pass; as many as the limit allows if absent (of "jacrev": all).
        memory_limit: bytes that what is computed here may take beside the model and the kernel, about.
        dtype: that a copy of the model computes in, unless it does so already. In float32 condition numbers beyond 1e6
            are noise. Sums over features are always in float64.

    Returns:
        (n, n) float64, or (n, c, n, c) for "full".

    Raises:
        ValueError: on a bad argument, by name; if there is no trainable parameter, a batch norm in training mode or
            dropout at work; if the limit is too small.

    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    >>> empirical_ntk(net, torch.randn(5, 3), ["*weight"]).shape
    torch.Size([5, 5])
    """
    parts = _parts(model, x, params, reduction, method, readout, chunk_size, memory_limit, dtype, together=True)
    total = next(parts)[1]
    for _, part in parts:
        total += part
    return _reduced(total, reduction)


@checked
def ntk_contributions(
    model: nn.Module,
    x: Inputs,
    params: Sequence[str] | None = None,
    *,
    readout: Readout | None = None,
    chunk_size: Count | None = None,
    memory_limit: Count = 1 << 29,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """The part of every layer in the empirical neural tangent kernel; they sum to `empirical_ntk`.

    Args:
        model: as in `empirical_ntk`, and so are the others.
        x: inputs.
        params: patterns of names.
        readout: to outputs (n, c).
        chunk_size: samples per pass.
        memory_limit: bytes, beside a kernel per layer.
        dtype: to compute in.

    Returns:
        Name of a module that has parameters → (n, n) float64, the sum over outputs, in the order of the model.

    Raises:
        ValueError: as `empirical_ntk`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.GELU(), torch.nn.Linear(8, 2))
    >>> list(ntk_contributions(net, torch.randn(5, 3)))
    ['0', '2']
    """
    found: dict[str, Tensor] = {}
    for name, part in _parts(
        model, x, params, "trace", "auto", readout, chunk_size, memory_limit, dtype, together=False
    ):
        found[name] = found[name] + part if name in found else part
    order = {name: place for place, (name, _) in enumerate(model.named_modules())}
    return {name: _reduced(found[name], "trace") for name in sorted(found, key=lambda name: order[name])}


def _reduced(total: Tensor, reduction: Reduction) -> Tensor:
    """Of (c, c, n, n) for "full", (1, 1, n, n) summed over outputs and (1, 1, n, n) of the mean."""
    return total.permute(2, 0, 3, 1).contiguous() if reduction == "full" else total[0, 0]


def _parts(
    model: nn.Module,
    x: Inputs,
    params: Sequence[str] | None,
    reduction: Reduction,
    method: Method,
    readout: Readout | None,
    chunk_size: int | None,
    limit: int,
    dtype: torch.dtype,
    *,
    together: bool,
) -> Iterator[tuple[str, Tensor]]:
    """(module, its part of the kernel), (c, c, n, n) for "full", else (1, 1, n, n); `together`: some under no name."""
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype} must be torch.float64 or torch.float32")
    x = _checked_inputs(x, dtype)
    names = _chosen(model, params)
    _refuse_noise(model)
    full = reduction == "full"
    with _prepared(model, names, dtype) as work:
        with torch.no_grad():
            width = outputs(work, taken(x, slice(0, 2)), readout).shape[1]
        scale = 1 / width if reduction == "mean" else 1.0
        if method == "jacrev":
            yield "", scale * jacobian_kernel(work, x, names, readout, width, full, chunk_size, limit)
            return
        layers, rest = _sorted_layers(work, x, names, readout, strict=method == "structured")
        if layers:
            readings, chosen, each = layers
            each *= width if full else 1
            # Of blocks there are two at a time.
            chunk = chunk_size or (samples(x) if samples(x) * each <= limit else max(1, limit // (2 * each)))
            found = _structured(work, x, readings, chosen, readout, full, chunk, limit // 4, together)
            for name, part in found.items():
                yield name, part.mul_(scale)
        for name, part in sample_kernels(work, x, rest, readout, width, full, limit):
            yield name, part.mul_(scale)


def _structured(
    model: nn.Module,
    x: Inputs,
    readings: Mapping[str, Reading],
    chosen: Mapping[str, tuple[bool, bool]],
    readout: Readout | None,
    full: bool,
    chunk: int,
    limit: int,
    together: bool,
) -> dict[str, Tensor]:
    n = samples(x)
    found: dict[str, Tensor] = {}
    blocks = [slice(start, min(start + chunk, n)) for start in range(0, n, chunk)]
    for place, rows in enumerate(blocks):
        one = Recording(model, taken(x, rows), readings, chosen, readout)
        width = one.outputs.shape[1]
        groups = [range(width)] if full else [range(number, number + 1) for number in range(width)]
        for columns in blocks[place:]:
            same = columns == rows
            other = one if same else Recording(model, taken(x, columns), readings, chosen, readout)
            for numbers in groups:
                left = one.features(numbers)
                right = left if same else other.features(numbers)
                for name, features in left.items():
                    part = contraction(features, right[name], limit)
                    where = "" if together else name
                    if where not in found:
                        found[where] = part.new_zeros(len(numbers), len(numbers), n, n)
                    found[where][..., rows, columns] += part
                    if not same:
                        found[where][..., columns, rows] += part.permute(1, 0, 3, 2)
            del other
    return found


def _sorted_layers(
    model: nn.Module, x: Inputs, names: Sequence[str], readout: Readout | None, *, strict: bool
) -> tuple[tuple[dict[str, Reading], dict[str, tuple[bool, bool]], int] | None, list[str]]:
    """Layers that are contracted, with the bytes that a sample takes in them; and the parameters that are left."""
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    readings: dict[str, Reading] = {}
    chosen: dict[str, tuple[bool, bool]] = {}
    mine: dict[str, list[str]] = {}
    for name, layer in model.named_modules():
        own = [inner for inner, _ in layer.named_parameters(recurse=False) if _joined(name, inner) in names]
        tied = any(owners[id(getattr(layer, inner))] > 1 for inner in own)
        how = reading(layer) if own and not tied and set(own) <= {"weight", "bias"} else None
        if how is not None:
            readings[name], chosen[name] = how, ("weight" in own, "bias" in own)
            mine[name] = [_joined(name, inner) for inner in own]
    probe = Recording(model, taken(x, slice(0, 2)), readings, chosen, readout)
    bad = _unlike_autograd(model, probe, mine)
    if bad and strict:
        raise ValueError(
            f"the layer {bad[0]!r} cannot be contracted: its weights are used elsewhere too, its first dimension is "
            "not that of the samples, or samples depend on each other; use method='auto' or 'jacrev'"
        )
    for name in bad:
        del readings[name], chosen[name], mine[name]
    known = {each for own in mine.values() for each in own}
    size = sum(
        (given.numel() + 2 * found.numel()) // 2 * found.element_size()
        for name in readings
        for given, found in probe.calls[name]
    )
    return (readings, chosen, _COPIES * size) if readings else None, [name for name in names if name not in known]


def _unlike_autograd(model: nn.Module, probe: Recording, mine: Mapping[str, Sequence[str]]) -> list[str]:
    """Layers of which the gradient of the first sample, put together from what they saw, is not autograd's."""
    weights = dict(model.named_parameters())
    first = probe.outputs[0].sum()
    names = [each for own in mine.values() for each in own]
    wanted = dict(
        zip(
            names,
            torch.autograd.grad(
                first, [weights[name] for name in names], retain_graph=True, allow_unused=True, materialize_grads=True
            )
            if names
            else (),
            strict=True,
        )
    )
    deltas = probe.gradients(first)
    bad = []
    for name, own in mine.items():
        total = {each: torch.zeros_like(wanted[each]) for each in own}
        alone = bool(probe.calls[name])
        for (given, found), delta in zip(probe.calls[name], deltas[name], strict=True):
            if len(found) != len(probe.outputs) or len(given) != len(found) or bool((delta[1:] != 0).any()):
                alone = False
                break
            with torch.enable_grad():
                again = model.get_submodule(name)(given)
            found_here = torch.autograd.grad(
                again, [weights[each] for each in own], delta, allow_unused=True, materialize_grads=True
            )
            for each, part in zip(own, found_here, strict=True):
                total[each] += part
        close = all(
            float((total[each] - wanted[each]).norm()) <= _DIFFERENT * float(wanted[each].norm()) for each in own
        )
        if not (alone and close):
            bad.append(name)
    return bad


def _joined(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter


def _checked_inputs(x: Any, dtype: torch.dtype) -> Inputs:
    if not isinstance(x, Tensor | Mapping) or (not isinstance(x, Tensor) and not x):
        raise ValueError(f"x must be a tensor, or a dictionary of tensors by name, got {type(x).__name__}")
    parts = {"x": x} if isinstance(x, Tensor) else dict(x)
    sizes = {len(value) if isinstance(value, Tensor) and value.ndim else None for value in parts.values()}
    if len(sizes) > 1 or None in sizes or min(size or 0 for size in sizes) < 2:
        raise ValueError("x must be tensors whose first dimension is that of the samples, of which there are 2 or more")
    for name, value in parts.items():
        if value.is_floating_point():
            check_finite(name, value)
            parts[name] = value.detach().to(dtype)
    return parts["x"] if isinstance(x, Tensor) else parts


def _chosen(model: nn.Module, params: Sequence[str] | None) -> list[str]:
    known = dict(model.named_parameters())
    if params is None:
        found = [name for name, value in known.items() if value.requires_grad]
        if not found:
            raise ValueError("model has no trainable parameters; name some in params, or set requires_grad")
        return found
    for pattern in params:
        if not fnmatch.filter(known, pattern):
            raise ValueError(f"params has the pattern {pattern!r}, which is the name of no parameter of the model")
    found = [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in params)]
    if not found:
        raise ValueError("params must name at least one pattern")
    return found


def _refuse_noise(model: nn.Module) -> None:
    """Refuse what makes outputs random, or those of a sample depend on others."""
    for name, layer in model.named_modules():
        where = f"layer {name!r}" if name else "the model"
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and (layer.training or layer.running_mean is None):
            raise ValueError(
                f"{where} is a batch norm that takes its statistics from the batch, so no sample has a gradient of its "
                "own; call model.eval() first, with running statistics"
            )
        if not layer.training:
            continue
        rates = [layer.p] if isinstance(layer, nn.modules.dropout._DropoutNd) else []
        rates += [getattr(layer, each, 0.0) for each in ("dropout", "attention_dropout", "drop_prob")]
        if any(isinstance(rate, float) and rate > 0 for rate in rates):
            raise ValueError(f"{where} drops out at random; call model.eval() first")


@contextmanager
def _prepared(model: nn.Module, names: Sequence[str], dtype: torch.dtype) -> Iterator[nn.Module]:
    """The model in this dtype, a copy unless it is so already, with gradients for the chosen parameters only."""
    floating = {value.dtype for value in model.state_dict().values() if value.is_floating_point()}
    work = model if floating <= {dtype} else copy.deepcopy(model).to(dtype)
    weights = dict(work.named_parameters())
    before = {name: value.requires_grad for name, value in weights.items()}
    wanted = set(names)
    try:
        for name, value in weights.items():
            value.requires_grad_(name in wanted)
        with torch.enable_grad(), torch.autocast(weights[names[0]].device.type, enabled=False):
            yield work
    finally:
        for name, value in weights.items():
            value.requires_grad_(before[name])
