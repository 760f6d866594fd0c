"""What optimizers share that call their closure several times in one step: every pass must see the batch alike.

Random numbers are drawn again, running statistics count a batch once, weights that autocast has cast are not taken for
the moved ones, and gradients of an earlier backward are noticed.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

from equipoise.core.distributed import world_size

_SPENT = "_spent_at_version"


class NotFiniteError(FloatingPointError):
    """A loss or gradient that is NaN or infinite; the step has changed nothing.

    Args:
        loss: at the weights before the step, where known.
    """

    reason = "the loss or its gradient is NaN or infinite"

    def __init__(self, loss: Tensor | None) -> None:
        super().__init__(f"{self.reason}; nothing was changed. skip_nonfinite=True leaves such steps out")
        self.loss = loss if loss is None else loss.detach()

    def left_out(self, skip: bool) -> Any:
        """The loss, with a warning, where such steps are to be skipped; else this error is raised."""
        if not skip:
            raise self
        warnings.warn(f"{self.reason}; this step is left out", UserWarning, stacklevel=4)
        return self.loss


class NoLossError(NotFiniteError):
    """A closure that returned None, as Lightning's does for a batch that is to be skipped; always left out."""

    reason = "the closure returned None"

    def __init__(self) -> None:
        super().__init__(torch.tensor(torch.nan))

    def left_out(self, skip: bool) -> Any:
        """NaN, with a warning."""
        return super().left_out(True)


class RandomState:
    """Torch's generators on the CPU and on the devices of parameters, as they are now.

    Args:
        params: the parameters.

    >>> state = RandomState([])
    >>> first = torch.rand(2)
    >>> with state.again():
    ...     torch.equal(torch.rand(2), first)
    True
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self._devices = sorted({p.device.index for p in params if p.device.type == "cuda"})
        self._states = [torch.get_rng_state(), *(torch.cuda.get_rng_state(d) for d in self._devices)]

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw the same numbers inside the block; the generators are left as they were before it."""
        with torch.random.fork_rng(self._devices):
            torch.set_rng_state(self._states[0])
            for device, state in zip(self._devices, self._states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


class RunningStatistics:
    """Running statistics of every normalisation that this thread runs inside the block, as they were before it.

    They come back where the block raises, and by `restore`.
    """

    def __enter__(self) -> RunningStatistics:
        self._known: set[nn.Module] = set()
        self._saved: list[tuple[Tensor, Tensor]] = []
        self._thread = threading.get_ident()
        self._hook = register_module_forward_pre_hook(self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._hook.remove()
        if kind is not None:
            self.restore()

    def _remember(self, module: nn.Module, inputs: Any) -> None:
        if module in self._known or threading.get_ident() != self._thread:
            return
        for part in module.modules():
            if part not in self._known and isinstance(part, _NormBase):
                self._saved.extend((buffer, buffer.clone()) for buffer in part.buffers(recurse=False))
            self._known.add(part)

    @torch.no_grad()
    def restore(self) -> None:
        """Put them back."""
        for buffer, value in self._saved:
            buffer.copy_(value)


@contextmanager
def kept_weights(params: list[Tensor], *, only_on_error: bool = False) -> Iterator[None]:
    """Weights as they were, to the last bit, after the block; they may be moved in place inside it.

    Args:
        params: the weights.
        only_on_error: whether they come back only where the block raises.
    """
    saved = [p.detach().clone() for p in params]
    done = False
    try:
        yield
        done = True
    finally:
        if params and not (done and only_on_error):
            with torch.no_grad():
                torch._foreach_copy_(params, saved)
        torch.clear_autocast_cache()


def clear_gradients(params: Iterable[Tensor]) -> dict[Tensor, Tensor]:
    """Clear gradients before a closure.

    Returns:
        Per parameter whose gradient no earlier step has left (see `mark_spent`) and is not zero, the zero gradient
        that it has now: a closure that clears nothing adds its own to that.
    """
    pending = {}
    for p in params:
        gradient, p.grad = p.grad, None
        if gradient is None or getattr(gradient, _SPENT, None) == gradient._version or not p.requires_grad:
            continue
        if _any(gradient):
            pending[p] = p.grad = torch.zeros_like(gradient)
    return pending


def refuse_added(pending: dict[Tensor, Tensor]) -> None:
    """Refuse gradients that a closure has added to those of an earlier backward.

    Args:
        pending: of `clear_gradients`, before the closure.

    Raises:
        RuntimeError: if there are any: whether the earlier ones were meant to count cannot be told.
    """
    if any(p.grad is held and _any(held) for p, held in pending.items()):
        raise RuntimeError(
            "there were gradients before the step, and the closure added its own to them. Call zero_grad first in the "
            "closure; to accumulate over several batches (Lightning's accumulate_grad_batches), let one closure call "
            "backward for all of them"
        )


def mark_spent(params: Iterable[Tensor]) -> None:
    """Mark the gradients that a step has used, so that the next one knows them unless something is added."""
    for p in params:
        if p.grad is not None:
            setattr(p.grad, _SPENT, p.grad._version)


def all_finite(tensors: Iterable[Tensor], *, everywhere: bool = False) -> bool:
    """Whether no value is NaN or infinite, of sparse tensors too.

    Args:
        tensors: one or more.
        everywhere: whether on all processes.

    >>> all_finite([torch.ones(2), torch.tensor(torch.inf)])
    False
    """
    flags = [_values(tensor).isfinite().all() for tensor in tensors]
    bad = (~torch.stack([flag.to(flags[0].device) for flag in flags])).sum()
    if everywhere and world_size() > 1:
        distributed.all_reduce(bad)
    return not bool(bad)


def _any(tensor: Tensor) -> bool:
    return bool(_values(tensor).any())


def _values(tensor: Tensor) -> Tensor:
    return tensor.coalesce().values() if tensor.is_sparse else tensor
