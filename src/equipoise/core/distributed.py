"""Batches of all processes as one: what a mean over pairs needs, since the mean of two processes' pairs is not the mean
over the pairs of both.

Every process gathers the union and computes the same loss of it. A process's gradient is its own rows' times the number
of processes, so that DistributedDataParallel, which averages over processes, ends with the gradient of the union.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, distributed

Group = Any
"""A process group of torch.distributed; None is the default one."""


def world_size(group: Group = None) -> int:
    """How many processes there are; 1 where torch.distributed is not running.

    >>> world_size()
    1
    """
    return distributed.get_world_size(group) if _running() else 1


def sum_of_processes(tensor: Tensor, group: Group = None) -> Tensor:
    """The sum over all processes, without gradient; the tensor itself where there is one process.

    >>> sum_of_processes(torch.tensor(2.0))
    tensor(2.)
    """
    return _reduced(tensor, distributed.ReduceOp.SUM, group) if world_size(group) > 1 else tensor


def most_of_processes(tensor: Tensor, group: Group = None) -> Tensor:
    """The largest value of all processes, element by element.

    >>> most_of_processes(torch.tensor(2))
    tensor(2)
    """
    return _reduced(tensor, distributed.ReduceOp.MAX, group) if world_size(group) > 1 else tensor


def of_first_process(tensor: Tensor, group: Group = None) -> Tensor:
    """The tensor of the first process, without gradient; the tensor itself where there is one process.

    >>> of_first_process(torch.tensor(2))
    tensor(2)
    """
    if world_size(group) == 1:
        return tensor
    found = tensor.detach().clone()
    distributed.broadcast(found, distributed.get_process_group_ranks(group)[0] if group is not None else 0, group=group)
    return found


def rank_of_process(group: Group = None) -> int:
    """The number of this process; 0 where torch.distributed is not running.

    >>> rank_of_process()
    0
    """
    return distributed.get_rank(group) if _running() else 0


def gather_rows(tensor: Tensor, group: Group = None) -> Tensor:
    """The rows of all processes, in the order of their ranks.

    Args:
        tensor: (n, ...) of this process; n may differ between processes and be 0, the rest of the shape may not.
        group: the processes; all if absent.

    Returns:
        (Σ n, ...), the tensor itself where there is one process. A gradient that comes back is cut to the own rows and
        multiplied by the number of processes: right where every process computes the same loss of the result.

    >>> gather_rows(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if world_size(group) == 1:
        return tensor
    gathered: Tensor = _GatherRows.apply(tensor, group)
    return gathered


def gather_batch(
    scores: Tensor, target: Tensor, weight: Tensor | None = None, group: Group = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """`gather_rows` of scores, targets and, where there are some, weights.

    >>> gather_batch(torch.tensor([0.5]), torch.tensor([1]))
    (tensor([0.5000]), tensor([1]), None)
    """
    gathered = None if weight is None else gather_rows(weight, group)
    return gather_rows(scores, group), gather_rows(target, group), gathered


def gather_states(tensor: Tensor, group: Group = None) -> list[Tensor]:
    """The tensors of all processes, for `torchmetrics.Metric(dist_sync_fn=gather_states)`.

    A process that saw no batch holds an empty tensor of no particular dtype and shape; it takes those of the others,
    whose dtypes are promoted to one.

    Args:
        tensor: (n, ...) of this process; n may differ between processes.
        group: the processes; all if absent.
    """
    if world_size(group) == 1:
        return [tensor]
    told: list[Any] = [None] * world_size(group)
    distributed.all_gather_object(told, (tuple(tensor.shape), tensor.dtype), group=group)
    filled = [(shape, dtype) for shape, dtype in told if math.prod(shape)]
    if tensor.ndim == 0 or not filled:
        pieces = [torch.empty_like(tensor) for _ in told]
        distributed.all_gather(pieces, tensor.contiguous(), group=group)
        return pieces
    shape, dtype = filled[0][0], functools.reduce(torch.promote_types, (dtype for _, dtype in filled))
    rows = tensor.to(dtype) if tensor.numel() else torch.empty((0, *shape[1:]), dtype=dtype, device=tensor.device)
    counts = [each[0] if math.prod(each) else 0 for each, _ in told]
    return list(gather_rows(rows.contiguous(), group).split(counts))


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Group) -> Tensor:
        rank, world = distributed.get_rank(group), distributed.get_world_size(group)
        rows = torch.tensor([tensor.shape[0]], device=tensor.device)
        all_rows = [torch.empty_like(rows) for _ in range(world)]
        distributed.all_gather(all_rows, rows, group=group)
        counts = [int(r) for r in all_rows]
        # Not every backend sends booleans, nor pieces of different lengths.
        sent = tensor.detach().to(torch.uint8) if tensor.dtype is torch.bool else tensor.detach()
        padded = sent.new_zeros((max(counts), *tensor.shape[1:]))
        padded[: tensor.shape[0]] = sent
        pieces = [torch.empty_like(padded) for _ in range(world)]
        distributed.all_gather(pieces, padded, group=group)
        ctx.own = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        ctx.world = world
        return torch.cat([piece[:n] for piece, n in zip(pieces, counts, strict=True)]).to(tensor.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.own] * ctx.world, None


def _reduced(tensor: Tensor, how: Any, group: Group) -> Tensor:
    found = tensor.detach().clone()
    distributed.all_reduce(found, how, group=group)
    return found


def _running() -> bool:
    return distributed.is_available() and distributed.is_initialized()
