"""Tangent kernels by Jacobians: of all samples at once by `torch.func`, or of one sample after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from equipoise.language.gated.recording import Inputs, Readout, outputs, samples, taken


def jacobian_kernel(
    model: nn.Module,
    x: Inputs,
    names: Sequence[str],
    readout: Readout | None,
    width: int,
    full: bool,
    chunk: int | None,
    limit: int,
) -> Tensor:
    """The kernel by `torch.func.jacrev` under `vmap`.

    Raises:
        ValueError: if two blocks of Jacobians would take more than the limit.
    """
    weights = dict(model.named_parameters())
    n, size = samples(x), sum(weights[name].numel() for name in names)
    rows = min(n, chunk or n)
    each = width * size * next(iter(weights.values())).element_size()
    needed = each * (rows if rows == n else 2 * rows)
    if needed > limit:
        most = max(1, limit // (2 * each))
        raise ValueError(
            f"Jacobians of {size:,} parameters need {needed / 2**30:.2g} GiB, and memory_limit is "
            f"{limit / 2**30:.2g} GiB; set chunk_size={most}, or use method='structured'"
        )
    fixed = {name: value.detach() for name, value in weights.items() if name not in set(names)}
    moving = {name: weights[name].detach() for name in names}

    def one(given: dict[str, Tensor], sample: Inputs) -> Tensor:
        batch = sample[None] if isinstance(sample, Tensor) else {name: value[None] for name, value in sample.items()}
        return outputs(_Bound(model, {**fixed, **given}), batch, readout)[0]

    rows_of = torch.func.vmap(torch.func.jacrev(one), in_dims=(None, 0))

    def jacobian(block: slice) -> Tensor:
        parts = rows_of(moving, taken(x, block)).values()
        return torch.cat([part.detach().flatten(2) for part in parts], 2)

    return _by_blocks(jacobian, [("", size)], n, rows, full)[""]


def sample_kernels(
    model: nn.Module, x: Inputs, names: Sequence[str], readout: Readout | None, width: int, full: bool, limit: int
) -> Iterator[tuple[str, Tensor]]:
    """(module, its part of the kernel), by gradients of one sample after another, of as many parameters as fit.

    Raises:
        ValueError: if the gradients of two samples for one parameter take more than the limit.
    """
    weights = dict(model.named_parameters())
    n = samples(x)
    groups: list[list[str]] = []
    room = 0
    for name in names:
        each = 16 * width * weights[name].numel()
        if each > limit:
            raise ValueError(
                f"gradients of {name!r} take {each / 2**21:.3g} MiB a sample, too much for memory_limit of "
                f"{limit / 2**20:.3g} MiB; raise it, or leave this parameter out with params"
            )
        if not groups or each > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= each
    for group in groups:
        parameters = [weights[name] for name in group]
        pieces = [(name.rpartition(".")[0], weights[name].numel()) for name in group]

        def jacobian(block: slice, parameters: Sequence[Tensor] = parameters) -> Tensor:
            return torch.stack(
                [
                    torch.stack([_gradient(one, parameters) for one in outputs(model, sample, readout)[0]])
                    for sample in (taken(x, slice(place, place + 1)) for place in range(block.start, block.stop))
                ]
            )

        rows = min(n, max(1, limit // (16 * width * sum(size for _, size in pieces))))
        yield from _by_blocks(jacobian, pieces, n, rows, full).items()


class _Bound(nn.Module):
    """A module called with other parameters."""

    def __init__(self, model: nn.Module, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self._call, self._weights = [model], weights

    def forward(self, *args: Tensor, **kwargs: Tensor) -> object:
        return torch.func.functional_call(self._call[0], self._weights, args, kwargs)


def _gradient(of: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    parts = torch.autograd.grad(of, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def _by_blocks(
    jacobian: Callable[[slice], Tensor], pieces: Sequence[tuple[str, int]], n: int, rows: int, full: bool
) -> dict[str, Tensor]:
    """Kernels of pieces (name, columns) of Jacobians (block, c, columns): (c, c, n, n), or (1, 1, n, n) of sums."""
    blocks = [slice(start, min(start + rows, n)) for start in range(0, n, rows)]
    found: dict[str, Tensor] = {}
    for place, these in enumerate(blocks):
        left = jacobian(these)
        outer = left.shape[1] if full else 1
        for those in blocks[place:]:
            right = left if those == these else jacobian(those)
            start = 0
            for name, size in pieces:
                a, b = (each[..., start : start + size].double() for each in (left, right))
                start += size
                if name not in found:
                    found[name] = a.new_zeros(outer, outer, n, n)
                if full:
                    part = torch.einsum("iap,jbp->abij", a, b)
                else:
                    part = (a.flatten(1) @ b.flatten(1).T)[None, None]
                found[name][..., these, those] += part
                if those != these:
                    found[name][..., those, these] += part.permute(1, 0, 3, 2)
    return found
