"""A small problem and the steps that an optimizer of either kind takes on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from contracts.model import Entry, Solver

CLASSES = 3


def world(seed: int = 0, n: int = 24, norm: bool = False) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network, features (n, 4) and classes (n,)."""
    generator = torch.Generator().manual_seed(seed)
    between = nn.BatchNorm1d(6) if norm else nn.Tanh()
    model = nn.Sequential(nn.Linear(4, 6), between, nn.Linear(6, CLASSES)).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.7, generator=generator)
    return model, torch.randn(n, 4, generator=generator, dtype=torch.float64), torch.arange(n) % CLASSES


def made(entry: Entry, model: nn.Module, **changes: Any) -> Any:
    """The optimizer of a model."""
    if isinstance(entry, Solver):
        return entry.build(model, **changes)
    optimizer = entry.build(**{"params": model.parameters(), **changes})
    if hasattr(optimizer, "set_epoch"):
        optimizer.set_epoch(0)
    return optimizer


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Any:
    """A closure that returns one loss per sample, and the classes."""
    return lambda: (cross_entropy(model(x), y, reduction="none"), y)


def closure(entry: Entry, optimizer: Any, model: nn.Module, x: Tensor, y: Tensor) -> Any:
    """The closure that an optimizer wants."""
    return whole(optimizer.zero_grad, model, x, y) if isinstance(entry, Solver) else losses(model, x, y)


def whole(clear: Any, model: nn.Module, x: Tensor, y: Tensor) -> Any:
    """PyTorch's closure, which clears gradients by `clear`."""

    def closure() -> Tensor:
        clear()
        loss = cross_entropy(model(x), y)
        loss.backward()
        return loss

    return closure


def stepped(entry: Entry, steps: int = 1, rows: Any = None, **changes: Any) -> tuple[nn.Sequential, Any]:
    """A model after some steps, and its optimizer."""
    model, x, y = world()
    optimizer = made(entry, model, **changes)
    for _ in range(steps):
        if rows is None:
            optimizer.step(closure(entry, optimizer, model, x, y))
        else:
            optimizer.step([losses(model, x[r], y[r]) for r in rows])
    return model, optimizer


def weights(model: nn.Module) -> list[Tensor]:
    """Copies of parameters and of buffers."""
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers())]


def unchanged(model: nn.Module, before: list[Tensor]) -> bool:
    """Whether they are as they were, to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal, tensor by tensor."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, Tensor) else one == other
