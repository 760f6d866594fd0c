"""Bases of the metrics: a refused batch leaves no trace, and what judges a whole and no mean over batches keeps it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from equipoise.core.distributed import gather_states

_COURSE = ("_update_count", "_to_sync", "_should_unsync", "_enable_grad", "_computed", "compute_on_cpu")


class WholeMetric(Metric):
    """An `update` or a `forward` that raises leaves the metric as it was before.

    Args:
        kwargs: of `torchmetrics.Metric`.
    """

    full_state_update = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add a batch, and give the value of this batch alone."""
        return self._whole(super().forward, args, kwargs)

    def check_states(self) -> None:
        """Refuse a batch that does not go with the earlier ones, by raising after it was added."""

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
            raise ValueError(f"{type(self).__name__} has seen no samples; call update first")
        return tuple(dim_zero_cat(getattr(self, name)) for name in self.kept)
