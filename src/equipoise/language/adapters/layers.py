"""The trained part of TuckA in a layer, and a linear layer with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from equipoise.core.models.low_rank import linear_sizes, linear_weight, with_weight
from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Real
from equipoise.language.adapters.contexts import RoutedLayer, RouteLifetime, RouteState
from equipoise.language.adapters.router import CentroidInit, TuckARouter, kaiming_uniform
from equipoise.language.adapters.tucka import Route, Routing, adapted_input, check_sizes, input_change, mixed_core

AdapterInit: TypeAlias = Literal["paper", "identity"]


@checked
@dataclass(frozen=True)
class TuckASettings:
    """The settings of TuckA.

    Attributes:
        r: core size.
        k: groups.
        t: experts of a group, at least 2 where there are several groups.
        p: slices of a group.
        alpha: scale of the change.
        perturb_scale: half the width of the box around the first mean, in which centroids begin.
        centroids: "data" for centroids from the first batch, "kaiming" for uniform ones.
        routing: "batch" for one route of a batch, "sample" for one of each sample.
        init: "paper" begins with a small random change, "identity" subtracts it, so that the model begins unchanged.
        route_lifetime: "sequence" keeps the route of the prefill while text is generated, "forward" does not.
        synchronize: whether training batches of several processes are routed by their common mean.
        seed: of everything that is drawn.

    Raises:
        ValueError: on sizes that cannot route.

    >>> TuckASettings(r=4, k=8).k
    8
    """

    r: Count = 8
    k: Count = 2
    t: Count = 2
    p: Count = 2
    alpha: Real = 2.0
    perturb_scale: Positive = 10.0
    centroids: CentroidInit = "data"
    routing: Routing = "batch"
    init: AdapterInit = "paper"
    route_lifetime: RouteLifetime = "sequence"
    synchronize: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.k, self.t, self.p, self.r)

    def router(self, in_features: int) -> TuckARouter:
        """A router for inputs of this width."""
        return TuckARouter(
            in_features,
            self.k,
            self.t,
            self.perturb_scale,
            self.centroids,
            self.routing,
            synchronize=self.synchronize,
            seed=self.seed,
        )


class TuckAExperts(nn.Module):
    """Core, factor and coefficients of one layer: its change, given a route.

    All cores begin as copies of one matrix.

    Args:
        in_features: d.
        settings: sizes and how to begin.
        layer: number of the layer, so that layers differ.

    Attributes:
        core: G, (k, p, r, r).
        factor: U, (d, r).
        expert_coef: C, (t, p).
    """

    core: nn.Parameter
    factor: nn.Parameter
    expert_coef: nn.Parameter
    first_core: Tensor
    first_factor: Tensor
    first_expert_coef: Tensor

    def __init__(self, in_features: int, settings: TuckASettings, layer: int = 0) -> None:
        super().__init__()
        self.alpha = settings.alpha
        k, t, p, r = settings.k, settings.t, settings.p, settings.r
        generator = torch.Generator().manual_seed(settings.seed + 1 + layer)
        one = kaiming_uniform((r, r), r, generator)
        self.core = nn.Parameter(one.expand(k, p, r, r).clone())
        self.factor = nn.Parameter(kaiming_uniform((in_features, r), in_features, generator))
        self.expert_coef = nn.Parameter(kaiming_uniform((t, p), t, generator))
        self.identity = settings.init == "identity"
        if self.identity:
            for name in ("core", "factor", "expert_coef"):
                self.register_buffer(f"first_{name}", getattr(self, name).detach().clone())

    def forward(self, x: Tensor, route: Route) -> Tensor:
        """The input that the frozen layer is given in place of x.

        Args:
            x: (n, d) or (n, time, d).
            route: in force.
        """
        mixed = self._mixed(route, "")
        if not self.identity:
            return adapted_input(x, self.factor, mixed, self.alpha)
        # Equal changes cancel to zero before they meet x, so that the layer begins as the frozen one, bit by bit.
        first = input_change(x, self.first_factor, self._mixed(route, "first_"), self.alpha)
        return x + (input_change(x, self.factor, mixed, self.alpha) - first)

    @torch.no_grad()
    def merged(self, weight: Tensor, route: Route) -> Tensor:
        """A weight (o, d) with the change of one route in it, in its dtype; sums are at least in float32."""
        wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
        change = input_change(wide, self.factor, self._mixed(route, "").mT, self.alpha)
        if self.identity:
            change = change - input_change(wide, self.first_factor, self._mixed(route, "first_").mT, self.alpha)
        return (wide + change).to(weight.dtype)

    def _mixed(self, route: Route, which: str) -> Tensor:
        with torch.autocast(route.weights.device.type, enabled=False):
            return mixed_core(getattr(self, which + "core"), getattr(self, which + "expert_coef"), route)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        for name in ("core", "factor", "expert_coef"):
            found = state_dict.get(prefix + name)
            if found is not None and found.shape != getattr(self, name).shape:
                raise ValueError(
                    f"the checkpoint's {prefix}{name} has shape {tuple(found.shape)}, but the adapter has "
                    f"{tuple(getattr(self, name).shape)}; make it with the k, t, p and r of the checkpoint"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)


class TuckALinear(nn.Module, RoutedLayer):
    """A frozen linear layer with TuckA; `apply_tucka` makes one of every layer that is to be adapted.

    Args:
        base: the layer, `nn.Linear` or transformers' `Conv1D`; its parameters are frozen.
        settings: of the experts.
        route: what the adapted layers of the model share.
        name: of the layer in the model.
        layer: its number, so that layers begin differently.
        has_router: whether this layer decides for all.

    Attributes:
        experts: the trained part.
        router: of the layer that decides, else None.
        route: what the layers share.

    Raises:
        TypeError: if the layer is another one.

    >>> from equipoise.language import RouteState, TuckASettings
    >>> state = RouteState("", groups=2)
    >>> layer = TuckALinear(torch.nn.Linear(4, 3), TuckASettings(r=2), state, has_router=True)
    >>> state.attach(layer, [layer])
    >>> layer(torch.ones(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        base: nn.Module,
        settings: TuckASettings,
        route: RouteState,
        *,
        name: str = "",
        layer: int = 0,
        has_router: bool = False,
    ) -> None:
        super().__init__()
        sizes = linear_sizes(base)
        if sizes is None:
            raise TypeError(f"{name or 'base'} must be nn.Linear or transformers' Conv1D, got {type(base).__name__}")
        self.base = base.requires_grad_(False)
        self.experts = TuckAExperts(sizes[0], settings, layer)
        self.router = settings.router(sizes[0]) if has_router else None
        self.route, self.name = route, name
        weight = linear_weight(base)
        # Norms of a half-precision tensor lose what training adds to it; a quantised one has no such dtype at all.
        dtype = torch.promote_types(weight.dtype, torch.float32) if weight.is_floating_point() else torch.float32
        for part in (self.experts, self.router):
            if part is not None:
                part.to(weight.device, dtype)

    @property
    def route_states(self) -> Mapping[str, RouteState]:
        """The state under the name "default"."""
        return {"default": self.route}

    def forward(self, x: Tensor) -> Tensor:
        """The layer of the changed input.

        Args:
            x: (n, d) or (n, time, d).

        Raises:
            RuntimeError: if the router has not run yet in this forward pass.
        """
        return self.base(self.experts(x, self.route.route_for(x, self.name, self.router)))

    def merged(self) -> nn.Module:
        """A plain layer that does the same for the pinned route; this one is left as it is.

        Raises:
            RuntimeError: if no route is pinned.
        """
        return with_weight(self.base, self.experts.merged(linear_weight(self.base), self.route.pinned_route()))
