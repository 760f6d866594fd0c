"""Bases of the metrics: a refused batch leaves no trace, what judges a whole and no mean over batches keeps it, and
before the first batch every metric is NaN.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from equipoise.core.distributed import gather_states

_NOTHING = "{} has seen no samples; call update first"
_COURSE = ("_update_count", "_to_sync", "_should_unsync", "_enable_grad", "_computed", "compute_on_cpu")


def nan_by_name(names: Iterable[Any], device: torch.device | None = None) -> dict[Any, Tensor]:
    """float64 NaN for every name.

    >>> nan_by_name(["accuracy"])
    {'accuracy': tensor(nan, dtype=torch.float64)}
    """
    return {name: torch.tensor(math.nan, dtype=torch.float64, device=device) for name in names}


class WholeMetric(Metric):
    """An `update` or a `forward` that raises leaves the metric as it was before.

    `compute` before the first batch, here and in the other processes, warns (torchmetrics does) and gives `nothing()`;
    where the metric has `on_undefined="raise"`, it raises `ValueError`.

    Args:
        kwargs: of `torchmetrics.Metric`.
    """

    full_state_update = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch, and give the value of this batch alone."""
        return self._whole(super().forward, args, kwargs)

    def check_states(self) -> None:
        """Refuse a batch that does not go with the earlier ones, by raising after it was added."""

    def nothing(self) -> Any:
        """What `compute` gives before the first batch: NaN, by name where it gives a dictionary."""
        return torch.tensor(math.nan, dtype=torch.float64, device=self.device)

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(compute)
        def of_something(*args: Any, **kwargs: Any) -> Any:
            if self.update_called or not self._is_untouched():
                return compute(*args, **kwargs)
            if getattr(self, "on_undefined", "nan") == "raise":
                raise ValueError(_NOTHING.format(type(self).__name__))
            return self.nothing()

        wrapped: Callable[..., Any] = super()._wrap_compute(of_something)
        return wrapped

    def _is_untouched(self) -> bool:
        """Whether no state has anything of a batch, where states are synced of any process."""
        return all(
            state.equal(default.to(state.device)) if isinstance(default, Tensor) else not len(state)
            for state, default in ((getattr(self, name), default) for name, default in self._defaults.items())
        )

    def _wrap_update(self, update: Callable[..., Any]) -> Callable[..., Any]:
        wrapped = super()._wrap_update(update)

        @functools.wraps(update)
        def whole(*args: Any, **kwargs: Any) -> None:
            self._whole(wrapped, args, kwargs)

        return whole

    def _whole(self, add: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        course = {name: getattr(self, name) for name in _COURSE}
        states = {name: list(s) if isinstance(s, list) else s.clone() for name, s in self.metric_state.items()}
        try:
            value = add(*args, **kwargs)
            self.check_states()
        except Exception:
            for name, before in {**course, **states}.items():
                setattr(self, name, before)
            raise
        return value


class SampleMetric(WholeMetric):
    """Keeps tensors of all batches and processes; a subclass checks a batch in `update` and judges them in `compute`.

    Args:
        kwargs: of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better: bool | None = True

    kept: ClassVar[tuple[str, ...]]
    """Names of the states, in the order in which `samples` gives them."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dist_sync_fn": gather_states, **kwargs})
        for name in self.kept:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def keep(self, *tensors: Tensor) -> None:
        """Add a batch that has been checked, one tensor per state."""
        for name, tensor in zip(self.kept, tensors, strict=True):
            getattr(self, name).append(tensor.detach())

    def check_states(self) -> None:
        """Refuse a batch whose samples are of another shape than the earlier ones."""
        for name in self.kept:
            state = getattr(self, name)
            if isinstance(state, list) and state and state[0].shape[1:] != state[-1].shape[1:]:
                raise ValueError(
                    f"{name} of this batch have shape {tuple(state[-1].shape)}, those of earlier batches "
                    f"{tuple(state[0].shape)}; all but the number of samples must agree"
                )

    def samples(self) -> Any:
        """A tuple of what was kept, one tensor per state.

        Raises:
            ValueError: if nothing was.
        """
        if not len(getattr(self, self.kept[0])):
            raise ValueError(_NOTHING.format(type(self).__name__))
        return tuple(dim_zero_cat(getattr(self, name)) for name in self.kept)
