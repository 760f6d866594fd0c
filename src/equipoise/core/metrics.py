"""Metrics that judge a whole and not a mean over batches: the samples are kept."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from equipoise.core.distributed import gather_states


class SampleMetric(Metric):
    """Keeps tensors of all batches and processes; a subclass checks a batch in `update` and judges them in `compute`.

    Args:
        kwargs: of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better: bool | None = True
    full_state_update = False

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

    def samples(self) -> Any:
        """A tuple of what was kept, one tensor per state.

        Raises:
            ValueError: if nothing was.
        """
        if not len(getattr(self, self.kept[0])):
            raise ValueError(f"{type(self).__name__} has seen no samples; call update first")
        return tuple(dim_zero_cat(getattr(self, name)) for name in self.kept)
