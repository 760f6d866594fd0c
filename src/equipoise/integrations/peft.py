"""TuckA as a method of PEFT: importing this module registers it.

    from equipoise.integrations.peft import TuckAConfig
    model = peft.get_peft_model(base, TuckAConfig(target_modules=["q_proj", "v_proj"]))

`save_pretrained`, `PeftModel.from_pretrained`, several adapters by name, `disable_adapter`, `modules_to_save` and
gradient checkpointing are PEFT's own. Several active adapters are applied one after the other: the changed input of one
is the input of the next. Merging needs a pinned route of every active adapter: `pin_route(model, group, weights)`.

PEFT's own function for registering refuses names outside its list, so the tables that it would fill are filled here.
"""

from __future__ import annotations

import enum
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

try:
    from peft import PeftConfig
    from peft import mapping as tables
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, check_adapters_to_merge
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
except ImportError as missing:
    raise ImportError("TuckA as a method of PEFT needs PEFT: pip install 'equipoise[peft]'") from missing

from equipoise.core.models.low_rank import linear_sizes, linear_weight
from equipoise.language import RoutedLayer, RouteState, TuckAExperts, TuckASettings


class TuckAType(str, enum.Enum):
    """The name of the method; PEFT asks a type for its `value`."""

    TUCKA = "TUCKA"


@dataclass
class TuckAConfig(PeftConfig):
    """The settings of TuckA for PEFT.

    Attributes:
        target_modules: names of linear layers, their last parts, a pattern, or "all-linear".
        exclude_modules: names that are left alone.
        router_name: the adapted layer that routes, its name or the end of it; the first in module order if absent.
        layers_to_transform: numbers of the layers that are adapted.
        layers_pattern: name of the list that these numbers count.
        modules_to_save: names of modules that are trained as they are.
        bias: "none", "all" or "tucka_only": which biases are trained too.
        r: core size, as in `TuckASettings`; so are the following.
        k: groups.
        t: experts of a group.
        p: slices of a group.
        alpha: scale of the change.
        perturb_scale: half the width of the box around the first mean.
        centroids: "data" or "kaiming".
        routing: "batch" or "sample".
        init: "paper" or "identity".
        route_lifetime: "sequence" or "forward".
        synchronize: whether training batches of several processes are routed by their common mean.
        seed: of everything that is drawn.

    Raises:
        ValueError: on sizes that cannot route.
    """

    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    router_name: str | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    bias: str = "none"
    r: int = 8
    k: int = 2
    t: int = 2
    p: int = 2
    alpha: float = 2.0
    perturb_scale: float = 10.0
    centroids: str = "data"
    routing: str = "batch"
    init: str = "paper"
    route_lifetime: str = "sequence"
    synchronize: bool = True
    seed: int = field(default=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TuckAType.TUCKA
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), list):
                setattr(self, name, set(getattr(self, name)))
        if self.bias not in ("none", "all", "tucka_only"):
            raise ValueError(f"bias={self.bias!r} is not known; choose 'none', 'all' or 'tucka_only'")
        self.settings()

    def settings(self) -> TuckASettings:
        """The settings of the layers."""
        return TuckASettings(**{name: getattr(self, name) for name in TuckASettings.__dataclass_fields__})


class TuckALayer(BaseTunerLayer, RoutedLayer):
    """The parts that adapters have in one layer, by the name of the adapter."""

    adapter_layer_names = ("tucka_experts", "tucka_router")
    other_param_names = ("tucka_routes",)

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        self.base_layer = base_layer
        self.layer_name = name
        self.tucka_experts: Any = nn.ModuleDict()
        self.tucka_router: Any = nn.ModuleDict()
        self.tucka_routes: dict[str, RouteState] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []
        self._unmerged: Tensor | None = None
        sizes = linear_sizes(self.get_base_layer())
        if sizes is None:
            raise TypeError(
                f"{name} must be nn.Linear or transformers' Conv1D to be adapted, got {type(base_layer).__name__}"
            )
        self.in_features, self.out_features = sizes

    @property
    def route_states(self) -> Mapping[str, RouteState]:
        """States by the name of the adapter."""
        return self.tucka_routes

    def update_layer(self, adapter: str, config: TuckAConfig, state: RouteState, layer: int) -> None:
        """Add an adapter to this layer.

        Raises:
            ValueError: if it has one of this name.
        """
        if adapter in self.tucka_experts:
            raise ValueError(f"{self.layer_name} has an adapter {adapter!r} already; choose another name")
        settings = config.settings()
        self.tucka_experts[adapter] = TuckAExperts(self.in_features, settings, layer)
        if state.router_name == self.layer_name:
            self.tucka_router[adapter] = settings.router(self.in_features)
        self.tucka_routes[adapter] = state
        self._move_adapter_to_device_of_base_layer(adapter)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)


class TuckALinearOfPeft(nn.Module, TuckALayer):
    """A linear layer of a PEFT model with TuckA."""

    tucka_experts: Any
    tucka_router: Any
    base_layer: Any
    active_adapters: Any
    get_base_layer: Any

    def __init__(
        self, base_layer: nn.Module, name: str, adapter: str, config: TuckAConfig, state: RouteState, layer: int
    ) -> None:
        super().__init__()
        TuckALayer.__init__(self, base_layer, name)
        self._active_adapter = adapter
        self.update_layer(adapter, config, state, layer)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer of the input that the active adapters change one after the other."""
        if self.disable_adapters and self.merged:
            self.unmerge()
        if not (self.disable_adapters or self.merged):
            for adapter in self.active_adapters:
                if adapter in self.tucka_experts:
                    router = dict(self.tucka_router.items()).get(adapter)
                    route = self.tucka_routes[adapter].route_for(x, self.layer_name, router)
                    x = self.tucka_experts[adapter](x, route)
        return self.base_layer(x, *args, **kwargs)

    @torch.no_grad()
    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Put the change of the pinned routes into the weight.

        Raises:
            RuntimeError: if an adapter has no pinned route.
            ValueError: with `safe_merge`, if the merged weight is not finite.
        """
        names = [name for name in check_adapters_to_merge(self, adapter_names) if name in self.tucka_experts]
        if not names:
            return
        weight = linear_weight(self.get_base_layer())
        merged = weight
        # The first adapter meets the input first, so the weight meets it last.
        for name in reversed(names):
            merged = self.tucka_experts[name].merged(merged, self.tucka_routes[name].pinned_route())
        if safe_merge and not bool(merged.isfinite().all()):
            raise ValueError(f"the merged weight of {self.layer_name} is not finite; the adapters {names} are broken")
        if self._unmerged is None:
            self._unmerged = weight.clone()
        weight.copy_(merged)
        self.merged_adapters.extend(names)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Put the weight back that was there before."""
        if self._unmerged is None:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        weight = linear_weight(self.get_base_layer())
        weight.copy_(self._unmerged.to(weight))
        self._unmerged, self.merged_adapters = None, []

    def __repr__(self) -> str:
        return "tucka." + super().__repr__()


class TuckAModel(BaseTuner):
    """A model with TuckA, made by `peft.get_peft_model` from a `TuckAConfig`."""

    prefix = "tucka_"
    tuner_layer_cls = TuckALayer
    target_module_mapping: ClassVar[dict[str, Any]] = dict(TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add an adapter, and hook the model so that its forward passes have a route.

        Raises:
            ValueError: if `router_name` is none of the adapted modules.
        """
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        layers = self._layers_of(adapter_name)
        state = layers[0].tucka_routes[adapter_name]
        if not any(adapter_name in layer.tucka_router for layer in layers):
            names = ", ".join(layer.layer_name for layer in layers[:8])
            raise ValueError(f"router_name={state.router_name!r} is not an adapted module; choose one of {names}")
        state.attach(model, [layer for layer in layers if isinstance(layer, nn.Module)])

    def delete_adapter(self, adapter_name: str) -> None:
        """Take an adapter out, and its hooks off."""
        for layer in self._layers_of(adapter_name)[:1]:
            layer.tucka_routes[adapter_name].detach()
        super().delete_adapter(adapter_name)

    def _create_and_replace(
        self,
        config: TuckAConfig,
        adapter: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        before = self._layers_of(adapter)
        if before:
            state = before[0].tucka_routes[adapter]
        else:
            state = RouteState(config.router_name or current_key, config.k, config.route_lifetime)  # type: ignore[arg-type]
        if (
            config.router_name
            and current_key.endswith(f".{config.router_name}")
            and state.router_name == config.router_name
        ):
            state.router_name = current_key
        if isinstance(target, TuckALayer):
            target.update_layer(adapter, config, state, len(before))
            return
        layer = TuckALinearOfPeft(target, current_key, adapter, config, state, len(before))
        if adapter not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        super()._check_merge_allowed()
        for layer in self._layers_of(None):
            for adapter in layer.active_adapters:
                if adapter in layer.tucka_routes:
                    layer.tucka_routes[adapter].pinned_route()

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> nn.Module:
        states = {id(state): state for layer in self._layers_of(None) for state in layer.tucka_routes.values()}
        model = super()._unload_and_optionally_merge(*args, **kwargs)
        for state in states.values():
            state.detach()
        return model

    def _layers_of(self, adapter: str | None) -> list[TuckALayer]:
        found = [module for module in self.model.modules() if isinstance(module, TuckALayer)]
        return found if adapter is None else [layer for layer in found if adapter in layer.tucka_experts]


tables.PEFT_TYPE_TO_CONFIG_MAPPING[TuckAType.TUCKA] = TuckAConfig
tables.PEFT_TYPE_TO_TUNER_MAPPING[TuckAType.TUCKA] = TuckAModel
tables.PEFT_TYPE_TO_PREFIX_MAPPING[TuckAType.TUCKA] = TuckAModel.prefix
