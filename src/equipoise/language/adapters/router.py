"""The router of TuckA: centroids that take their place from the first batch, and the route of every other."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, distributed, nn

from equipoise.core.distributed import of_first_process, world_size
from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive
from equipoise.language.adapters.tucka import (
    Route,
    Routing,
    check_groups,
    masked_sum,
    route_of,
    tucka_data_aware_init,
)

CentroidInit: TypeAlias = Literal["data", "kaiming"]


class TuckARouter(nn.Module):
    """Centroids of k t experts and the choice among them, see `tucka_linear`.

    With "data" the first forward pass puts the centroids around the mean of its input; whether that has happened is
    part of the state, so that a loaded router keeps what it learned. Under torch.distributed that mean is the one of
    all processes, and the random numbers are those of the first: every process must take part in the first forward
    pass. In training mode the mean that routes is that of all processes too, so that they train the same group.

    Args:
        in_features: d.
        k: groups.
        t: experts of a group, at least 2 where there are several groups.
        perturb_scale: half the width of the box around the first mean.
        init: "data" for centroids from the first batch, "kaiming" for uniform ones without looking.
        routing: "batch" for one route of all samples, "sample" for one of each.
        synchronize: whether to route training batches by the mean of all processes; by sample it plays no part.
        seed: of the centroids.

    Attributes:
        centroids: E, (k t, d).
        initialised: whether the centroids have their place.

    Raises:
        ValueError: on sizes that cannot route.

    >>> router = TuckARouter(4, k=2, t=2)
    >>> route = router(torch.ones(3, 5, 4))
    >>> route.weights.shape, bool(router.initialised)
    (torch.Size([2]), True)
    """

    centroids: nn.Parameter
    initialised: Tensor

    @checked
    def __init__(
        self,
        in_features: Count,
        k: Count = 2,
        t: Count = 2,
        perturb_scale: Positive = 10.0,
        init: CentroidInit = "data",
        routing: Routing = "batch",
        *,
        synchronize: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_groups(k, t)
        self.k, self.t, self.perturb_scale, self.routing = k, t, perturb_scale, routing
        self.synchronize, self.seed = synchronize, seed
        drawn = kaiming_uniform((k * t, in_features), in_features, torch.Generator().manual_seed(seed))
        self.centroids = nn.Parameter(drawn if init == "kaiming" else torch.zeros_like(drawn))
        self.register_buffer("initialised", torch.tensor(init == "kaiming"))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Route:
        """The route of a batch.

        Args:
            x: (n, d) or (n, time, d).
            mask: 1 for tokens and 0 for padding, the shape of x without d.

        Raises:
            ValueError: if x has other features, or the mask does not fit or leaves nothing; with anomaly detection on,
                if x is not finite.
        """
        if x.ndim not in (2, 3) or x.shape[-1] != self.centroids.shape[1]:
            wanted = self.centroids.shape[1]
            raise ValueError(
                f"x of the router must be (n, {wanted}) or (n, time, {wanted}) features, got {tuple(x.shape)}"
            )
        with torch.autocast(x.device.type, enabled=False):
            if not bool(self.initialised):
                self._place(x.detach(), mask)
            total, count = masked_sum(x, mask, self.routing)
            if self.routing == "batch" and self.synchronize and self.training and world_size() > 1:
                total, count = _sum_over_processes(total), _sum_over_processes(count)
            mean = total / count[..., None]
            if torch.is_anomaly_enabled() and not bool(mean.isfinite().all()):
                raise ValueError("x of the router holds NaN or infinity; look for an overflow in the model before it")
            return route_of(mean, self.centroids, self.k, self.t)

    @torch.no_grad()
    def _place(self, x: Tensor, mask: Tensor | None) -> None:
        total, count = (_sum_over_processes(each) for each in masked_sum(x, mask, "batch"))
        uniform = torch.rand(self.k * self.t - 1, x.shape[-1], generator=torch.Generator().manual_seed(self.seed)).to(
            total
        )
        placed = tucka_data_aware_init(total / count, uniform, self.perturb_scale)
        self.centroids.copy_(of_first_process(placed))
        self.initialised.fill_(True)

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        return f"{self.centroids.shape[1]}, k={self.k}, t={self.t}, routing={self.routing!r}"


class _SumOverProcesses(torch.autograd.Function):
    """A sum to which every process's loss is attached: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        found = tensor.detach().clone()
        distributed.all_reduce(found)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        found = gradient.contiguous().clone()
        distributed.all_reduce(found)
        return found


def _sum_over_processes(tensor: Tensor) -> Tensor:
    if world_size() == 1:
        return tensor
    found: Tensor = _SumOverProcesses.apply(tensor)
    return found


def kaiming_uniform(shape: tuple[int, ...], fan: int, generator: torch.Generator) -> Tensor:
    """Kaiming's uniform distribution with a = sqrt 5, which is +- 1 / sqrt(fan)."""
    return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan)
