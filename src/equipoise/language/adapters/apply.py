"""TuckA in a whole model: putting it in, fixing its route, looking at its routes, taking it out as plain weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equipoise.core.signature import as_whole
from equipoise.language.adapters.contexts import RoutedLayer, RouteState
from equipoise.language.adapters.layers import TuckAExperts, TuckALinear, TuckASettings
from equipoise.language.adapters.targets import find_layers, put, replace_layers
from equipoise.language.adapters.tucka import Route


class ExpertLoad(NamedTuple):
    """How evenly groups are chosen.

    Attributes:
        counts: (k,) how often each was.
        entropy: of their shares, divided by log k: 1 where all are chosen alike, 0 where one is always, or where k = 1.
    """

    counts: Tensor
    entropy: float


class GroupRoute(NamedTuple):
    """What a group does on calibration data.

    Attributes:
        times: how often it was chosen.
        weights: (t,) the mean weights of its experts.
    """

    times: int
    weights: Tensor


def apply_tucka(
    model: nn.Module,
    target_modules: Sequence[str],
    settings: TuckASettings | None = None,
    router_name: str | None = None,
    *,
    example: Any = None,
) -> list[str]:
    """Freeze a model and give its linear layers TuckA, in place; one of them routes for all.

    Whatever module of the model is called first opens a forward pass, with one route. An argument `attention_mask` of
    it, (n, time), keeps padding out of the routing; `routing_mask` does the same for other models. Gradient
    checkpointing, re-entrant or not, and generation with a key-value cache keep the route of the forward pass they
    belong to.

    Args:
        model: any module.
        target_modules: names of linear layers or their last parts.
        settings: of TuckA; its defaults if absent.
        router_name: the adapted layer that routes; it must run before the others. If absent, the first that the model
            calls on `example`, or the first in the order of its modules.
        example: arguments of the model, a mapping for keywords, to find out which layer runs first.

    Returns:
        Names of the layers that were adapted.

    Raises:
        TypeError: if a target is not linear.
        ValueError: if no module matches, or `router_name` is not among those that do.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    >>> apply_tucka(model, ["0", "2"], TuckASettings(r=2))
    ['0', '2']
    >>> model(torch.ones(3, 4)).shape
    torch.Size([3, 2])
    """
    settings = TuckASettings() if settings is None else settings
    if _states(model):
        raise ValueError("the model has TuckA already; merge it first, or take a fresh model")
    layers = find_layers(model, target_modules)
    names = list(layers)
    if router_name is None:
        router_name = names[0] if example is None else _first_called(model, layers, example)
    if router_name not in layers:
        raise ValueError(f"router_name={router_name!r} is not an adapted module; choose one of {', '.join(names)}")
    state = RouteState(router_name, settings.k, settings.route_lifetime)

    def make(name: str, layer: nn.Module) -> nn.Module:
        number = names.index(name)
        return TuckALinear(layer, settings, state, name=name, layer=number, has_router=name == router_name)

    replace_layers(model, layers, make)
    state.attach(model, [model.get_submodule(name) for name in names])
    return names


def pin_route(model: nn.Module, group: int | None, weights: Tensor | None = None, *, adapter: str = "default") -> None:
    """Fix the route of a model whatever its input is; `group=None` lets it route again.

    Args:
        model: with TuckA, of `apply_tucka` or of PEFT.
        group: its number.
        weights: (t,) of its experts, such as `routes_of` finds.
        adapter: name of the adapter, of a PEFT model.

    Raises:
        ValueError: if the model has no such adapter or group, or the weights do not fit.
    """
    state = _state(model, adapter)
    if group is None:
        state.pinned = None
        return
    number, t = as_whole("group", group), _experts(model, adapter).expert_coef.shape[0]
    if not 0 <= number < state.groups:
        raise ValueError(f"group={number} must lie in 0..{state.groups - 1}")
    if not isinstance(weights, Tensor) or weights.shape != (t,) or not bool(torch.isfinite(weights).all()):
        raise ValueError(
            f"weights must be a tensor of {t} finite numbers, one of each expert of a group, got {weights!r}"
        )
    state.pinned = Route(torch.tensor(number), weights.detach().clone())


def merge_pinned(model: nn.Module) -> nn.Module:
    """Plain layers in the place of those with TuckA, in place: the same function for the pinned route, at no cost.

    Raises:
        RuntimeError: if no route is pinned.
        ValueError: if the model has no layers of `apply_tucka`.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, TuckALinear) and name}
    if not layers:
        raise ValueError("the model has no layers of `apply_tucka`; a PEFT model is merged by `merge_and_unload`")
    merged = {name: layer.merged().train(model.training) for name, layer in layers.items()}
    next(iter(layers.values())).route.detach()
    for name, layer in merged.items():
        put(model, name, layer)
    return model


def expert_load(model: nn.Module, *, adapter: str = "default", reset: bool = False) -> ExpertLoad:
    """How often each group has been chosen, by batch or by sample as it is routed; pinned routes are not counted.

    Args:
        model: with TuckA.
        adapter: name of the adapter, of a PEFT model.
        reset: whether to count from zero again.

    Raises:
        ValueError: if the model has no such adapter.
    """
    state = _state(model, adapter)
    counts = torch.zeros(state.groups, dtype=torch.long) if state.counts is None else state.counts.cpu()
    if reset:
        state.counts = None
    total = int(counts.sum())
    if total == 0 or state.groups == 1:
        return ExpertLoad(counts, 0.0)
    return ExpertLoad(counts, float(torch.special.entr(counts / total).sum()) / math.log(state.groups))


@torch.no_grad()
def routes_of(
    model: nn.Module, batches: Iterable[Any], call: Callable[[Any], Any] | None = None, *, adapter: str = "default"
) -> dict[int, GroupRoute]:
    """The mean weights of every group that calibration batches choose, to pin and merge one model per group.

    The model runs in evaluation mode and is left as it was, and so are the counts of `expert_load`.

    Args:
        model: with TuckA.
        batches: arguments of the model; a mapping is given as keywords.
        call: runs the model on a batch instead.
        adapter: name of the adapter, of a PEFT model.

    Returns:
        Group to its count and weights, only of groups that were chosen.

    Raises:
        ValueError: if there are no batches.
    """
    state = _state(model, adapter)
    was = {module: module.training for module in model.modules()}
    counts, pinned = state.counts, state.pinned
    seen: dict[int, list[Tensor]] = {}
    model.eval()
    state.pinned = None
    try:
        for batch in batches:
            state.last = None
            _run(model, batch) if call is None else call(batch)
            if state.last is None:
                raise ValueError("a batch ran without a route; does it reach the router?")
            last: Route = state.last
            rows = last.weights.reshape(-1, last.weights.shape[-1])
            for group, weights in zip(last.group.reshape(-1).tolist(), rows, strict=True):
                seen.setdefault(group, []).append(weights.cpu())
    finally:
        for module, training in was.items():
            module.training = training
        state.counts, state.pinned = counts, pinned
    if not seen:
        raise ValueError("batches is empty; at least one is needed")
    return {group: GroupRoute(len(rows), torch.stack(rows).mean(0)) for group, rows in sorted(seen.items())}


@contextmanager
def routing_mask(model: nn.Module, mask: Tensor) -> Iterator[None]:
    """Keep padding out of the routing of all forward passes inside, of a model that is not told an `attention_mask`.

    Args:
        model: with TuckA.
        mask: 1 or True for tokens, of the shape of the router's input without features.

    Raises:
        ValueError: if the model has no TuckA; in the forward pass, if the mask does not fit or hides everything.
    """
    states = _states(model)
    if not states:
        raise ValueError("the model has no TuckA; call `apply_tucka` first")
    with ExitStack() as stack:
        for state in states.values():
            stack.enter_context(state.masked(mask))
        yield


def tucka_parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for an optimizer, without weight decay where a norm has no effect: U, C and G.

    Args:
        model: with TuckA.
        weight_decay: of all other parameters, centroids and heads.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    >>> names = apply_tucka(model, ["0"], TuckASettings(r=2))
    >>> [len(group["params"]) for group in tucka_parameter_groups(model, 0.01)]
    [1, 3]
    """
    free = {id(each) for part in model.modules() if isinstance(part, TuckAExperts) for each in part.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [each for each in trained if id(each) not in free], "weight_decay": weight_decay},
        {"params": [each for each in trained if id(each) in free], "weight_decay": 0.0},
    ]


def _states(model: nn.Module) -> dict[str, RouteState]:
    found: dict[str, RouteState] = {}
    for module in model.modules():
        if isinstance(module, RoutedLayer):
            found.update(module.route_states)
    return found


def _state(model: nn.Module, adapter: str) -> RouteState:
    states = _states(model)
    if adapter not in states:
        raise ValueError(f"the model has no TuckA of the name {adapter!r}; it has {', '.join(states) or 'none'}")
    return states[adapter]


def _experts(model: nn.Module, adapter: str) -> TuckAExperts:
    for name, module in model.named_modules():
        if isinstance(module, TuckAExperts) and (adapter == "default" or name.endswith(f".{adapter}")):
            return module
    raise ValueError(f"the model has no TuckA of the name {adapter!r}")


def _run(model: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


class _Reached(Exception):  # noqa: N818
    """Ends a dry forward pass at the first adapted layer."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@torch.no_grad()
def _first_called(model: nn.Module, layers: Mapping[str, nn.Module], example: Any) -> str:
    def stop(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            raise _Reached(name)

        return hook

    handles = [layer.register_forward_pre_hook(stop(name)) for name, layer in layers.items()]
    try:
        _run(model, example)
    except _Reached as reached:
        return reached.name
    finally:
        for handle in handles:
            handle.remove()
    raise ValueError("example reaches none of the adapted modules; give another, or router_name")
