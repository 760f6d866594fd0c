"""One route for each forward pass, wherever its layers run: also again, when the backward pass recomputes them.

`RouteState.attach` hooks a model, and from then on

    forward      the outermost module that is called opens a `RouteContext`; the router writes its route there, the
                 other layers read it; at the end the context keeps numbers only, no graph
    recomputing  gradient checkpointing calls layers again during the backward pass, long after other forward passes.
                 They find their context by the storage of an input that the checkpoint kept, see `_known`
    generating   a forward pass that goes on with a key-value cache takes the route that the cache began with

Re-entrant checkpointing runs the forward pass without a graph, so that gradients of the weights would end at each
recomputed layer. They gather in a leaf of the context, and the router adds them to its own when it is recomputed.
"""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.autograd import Variable
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.hooks import RemovableHandle

from equipoise.core.validate import warn_once
from equipoise.language.adapters.router import TuckARouter
from equipoise.language.adapters.tucka import Route

RouteLifetime: TypeAlias = Literal["sequence", "forward"]
_NOT_IN_BACKWARD = -1


class RouteContext:
    """The route of one forward pass.

    Attributes:
        mask: of the tokens that route, or None.
        mask_is_told: whether the mask was set by hand and so must fit.
        route: with its graph while the forward pass runs, without it afterwards.
        kept: whether the route was there before the forward pass.
        learns: whether the weights want a gradient.
    """

    def __init__(self, mask: Tensor | None, mask_is_told: bool, kept: Route | None) -> None:
        self.mask, self.mask_is_told = mask, mask_is_told
        self.route, self.kept = kept, kept is not None
        self.learns = False
        self.storages: dict[int, StorageWeakRef] = {}
        self._leaf: Tensor | None = None

    def close(self) -> None:
        """Let go of the graph."""
        if self.route is not None:
            self.route = Route(self.route.group, self.route.weights.detach())

    def leaf(self) -> Route:
        """The route as a recomputed layer sees it: the same numbers, with a gradient of their own."""
        if self.route is None:
            raise RuntimeError("a layer with TuckA is recomputed, but its forward pass had no route")
        if self._leaf is None:
            self._leaf = self.route.weights.detach().clone().requires_grad_(self.learns)
        return Route(self.route.group, self._leaf)

    def connect(self, weights: Tensor) -> None:
        """Add what recomputed layers have gathered to the gradient of these weights."""
        if weights.requires_grad:
            weights.register_hook(self._with_gathered)

    def _with_gathered(self, gradient: Tensor) -> Tensor:
        gathered = None if self._leaf is None else self._leaf.grad
        if gathered is None or self._leaf is None:
            return gradient
        self._leaf.grad = None
        return gradient + gathered


class _Frame:
    """An open forward pass."""

    def __init__(self, owner: nn.Module, context: RouteContext, task: int, cache: Any) -> None:
        self.owner, self.context, self.task, self.cache = owner, context, task, cache
        self.depth = 1
        self.records = torch.is_grad_enabled()


class _Replay:
    """A context that is being recomputed by a backward pass."""

    def __init__(self, context: RouteContext) -> None:
        self.context = context
        self.route: Route | None = None


class _Local(threading.local):
    def __init__(self) -> None:
        self.frames: list[_Frame] = []
        self.replays: dict[int, _Replay] = {}


class RouteState:
    """What the adapted layers of a model share: the routes, and which is in force.

    Args:
        router_name: name of the module that has the router.
        groups: k.
        lifetime: "sequence" to keep the route of the prefill while generation goes on with its key-value cache,
            "forward" to route at every step.

    Attributes:
        pinned: the route that is used whatever the input is, or None.
        counts: (k,) how often each group was chosen.
        last: the last route.
    """

    def __init__(self, router_name: str, groups: int, lifetime: RouteLifetime = "sequence") -> None:
        self.router_name, self.groups, self.lifetime = router_name, groups, lifetime
        self.pinned: Route | None = None
        self.counts: Tensor | None = None
        self.last: Route | None = None
        self._mask: Tensor | None = None
        self._handles: list[RemovableHandle] = []
        self._local = _Local()
        self._live: list[weakref.ref[RouteContext]] = []
        self._sequences: weakref.WeakKeyDictionary[Any, Route] = weakref.WeakKeyDictionary()

    def attach(self, model: nn.Module, layers: Sequence[nn.Module]) -> None:
        """Hook a model that holds these layers; hooks of before are taken off."""
        self.detach()
        inside = {f"{name}." if name else "" for name, module in model.named_modules() if module in set(layers)}
        adapted = [name for name, module in model.named_modules() if module in set(layers)]
        openers = {name.rsplit(".", cut)[0] for name in adapted for cut in range(name.count(".") + 1)} | {""}
        for name, module in model.named_modules():
            if any(name.startswith(prefix) and name != prefix.rstrip(".") for prefix in inside):
                continue
            opens = name in openers
            enter = self._enter if opens else self._pass
            self._handles.append(module.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
            if opens:
                self._handles.append(module.register_forward_hook(self._leave, always_call=True))

    def detach(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def route_for(self, x: Tensor, name: str, router: TuckARouter | None) -> Route:
        """The route in force for a layer.

        Args:
            x: its input.
            name: of the layer, for messages.
            router: the layer's, if it has it.

        Raises:
            RuntimeError: if no router has run yet, or it is not known which forward pass is recomputed.
        """
        if self.pinned is not None:
            return Route(*(part.to(x.device) for part in self.pinned))
        replay = self._replayed(x)
        if replay is not None:
            if router is not None and not replay.context.kept and replay.route is None:
                replay.route = router(x, self._mask_for(replay.context, x))
                replay.context.connect(replay.route.weights)
            return replay.route or replay.context.leaf()
        if not self._local.frames:
            raise RuntimeError(f"{name} has no route: call the model that `apply_tucka` was given, or a part of it")
        context = self._local.frames[-1].context
        if context.route is None:
            if router is None:
                raise RuntimeError(
                    f"router module {self.router_name} has not run, but {name} needs its route; "
                    f"pass router_name={name!r}"
                )
            context.route = router(x, self._mask_for(context, x))
            context.learns = router.centroids.requires_grad or x.requires_grad
            context.connect(context.route.weights)
            self._count(context.route)
        return context.route

    def pinned_route(self) -> Route:
        """The pinned route.

        Raises:
            RuntimeError: if there is none.
        """
        if self.pinned is None:
            raise RuntimeError("a layer with TuckA is a plain one for a fixed route only; call `pin_route` first")
        if self.pinned.group.ndim:
            raise RuntimeError("the pinned route is by sample; pin one group and its weights")
        return self.pinned

    @contextmanager
    def masked(self, mask: Tensor) -> Iterator[None]:
        """Route by what this mask keeps, in all forward passes inside."""
        before, self._mask = self._mask, mask
        try:
            yield
        finally:
            self._mask = before

    def _enter(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        task = _backward_task()
        frames = self._local.frames
        if frames and frames[-1].task == task:
            if frames[-1].owner is module:
                frames[-1].depth += 1
            self._pass(module, args, kwargs)
        elif task != _NOT_IN_BACKWARD:
            self._pass(module, args, kwargs)
        else:
            named = _named(module, args, kwargs)
            cache = _cache_among(named.values())
            mask = self._mask if self._mask is not None else named.get("attention_mask")
            context = RouteContext(mask, self._mask is not None, self._kept(cache))
            frames.append(_Frame(module, context, task, cache))
            self._pass(module, args, kwargs)

    def _pass(self, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note the storage of an input in a forward pass; look for it in a backward pass."""
        task = _backward_task()
        frames = self._local.frames
        recomputing = task != _NOT_IN_BACKWARD and not (frames and frames[-1].task == task)
        if not recomputing and not (frames and frames[-1].records):
            return
        x = _first_tensor(args) if args else None
        x = _first_tensor(kwargs.values()) if x is None else x
        if x is None:
            return
        if recomputing:
            self._look(task, x)
        else:
            storage = x.untyped_storage()
            if storage._cdata not in frames[-1].context.storages:
                frames[-1].context.storages[storage._cdata] = StorageWeakRef(storage)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        frames = self._local.frames
        if not frames or frames[-1].owner is not module or frames[-1].task != _backward_task():
            return
        frame = frames[-1]
        frame.depth -= 1
        if frame.depth:
            return
        frames.pop()
        context = frame.context
        context.close()
        if context.route is None:
            return
        self.last = context.route
        cache = frame.cache
        if cache is None and isinstance(output, Mapping | tuple):
            cache = _cache_among(output.values() if isinstance(output, Mapping) else output)
        if self.lifetime == "sequence" and cache is not None:
            self._sequences[cache] = context.route
        # The context lives as long as the graph of the outputs, for a backward pass may ask for it.
        held = [tensor for tensor in _tensors(output) if tensor.grad_fn is not None] if frame.records else []
        for tensor in held:
            tensor.grad_fn.register_prehook(_Holder(context))  # type: ignore[union-attr]
        if held:
            self._live = [each for each in self._live if each() is not None]
            self._live.append(weakref.ref(context))

    def _kept(self, cache: Any) -> Route | None:
        going_on = self.lifetime == "sequence" and cache is not None and cache.get_seq_length() > 0
        return self._sequences.get(cache) if going_on else None

    def _look(self, task: int, x: Tensor) -> None:
        """Remember the context whose forward pass had this input, if one had."""
        cdata = x.untyped_storage()._cdata
        known = [each for each in (ref() for ref in self._live) if each is not None and _known(each, cdata)]
        replays = self._local.replays
        if known and not (task in replays and replays[task].context in known):
            self._begin(task, known[-1])

    def _begin(self, task: int, context: RouteContext) -> _Replay:
        replays = self._local.replays
        if task not in replays:
            # A replay holds a graph, so it goes with the backward pass that it is part of.
            Variable._execution_engine.queue_callback(functools.partial(_drop, replays, task))
        replays[task] = _Replay(context)
        return replays[task]

    def _replayed(self, x: Tensor) -> _Replay | None:
        task = _backward_task()
        frames = self._local.frames
        if task == _NOT_IN_BACKWARD or (frames and frames[-1].task == task):
            return None
        if task in self._local.replays:
            return self._local.replays[task]
        live = [each for each in (ref() for ref in self._live) if each is not None]
        if len(live) != 1:
            raise RuntimeError(
                f"a layer with TuckA is recomputed in a backward pass, and {len(live)} forward passes are waiting for "
                "theirs: let the checkpointed part begin with a module, which its saved input is recognised by"
            )
        return self._begin(task, live[0])

    def _mask_for(self, context: RouteContext, x: Tensor) -> Tensor | None:
        mask = context.mask
        if mask is None or context.mask_is_told:
            return mask
        if not isinstance(mask, Tensor) or mask.ndim != 2:
            return None
        if mask.shape[1] > x.shape[1] and len(mask) == len(x):
            mask = mask[:, -x.shape[1] :]
        if mask.shape != x.shape[:-1]:
            warn_once(
                f"the attention mask {tuple(mask.shape)} is not one of the router's input {tuple(x.shape)}, so padding "
                "takes part in routing; set one with `routing_mask`"
            )
            return None
        return mask

    def _count(self, route: Route) -> None:
        group = route.group.detach().reshape(-1)
        if self.counts is None or self.counts.device != group.device:
            old = self.counts
            self.counts = torch.zeros(self.groups, dtype=torch.long, device=group.device)
            if old is not None:
                self.counts += old.to(group.device)
        self.counts.index_add_(0, group, torch.ones_like(group))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_local", "_live", "_sequences")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._local, self._live, self._sequences = _Local(), [], weakref.WeakKeyDictionary()


class RoutedLayer:
    """A module that takes part in routing: `route_states` are its states by the name of the adapter."""

    @property
    def route_states(self) -> Mapping[str, RouteState]:
        """States by the name of the adapter."""
        raise NotImplementedError


class _Holder:
    """A hook that does nothing but keep a context alive."""

    def __init__(self, context: RouteContext) -> None:
        self.context = context

    def __call__(self, gradients: Any) -> None:
        return None


def _drop(replays: dict[int, _Replay], task: int) -> None:
    replays.pop(task, None)


def in_backward() -> bool:
    """Whether a backward pass is running in this thread."""
    return _backward_task() != _NOT_IN_BACKWARD


def _backward_task() -> int:
    """Number of the backward pass that this thread is in, -1 if in none; `torch.utils.checkpoint` asks for the same."""
    return torch._C._current_graph_task_id()


def _known(context: RouteContext, cdata: int) -> bool:
    """Whether an input of the forward pass had this storage and is still there: its address alone would not tell."""
    kept = context.storages.get(cdata)
    return kept is not None and not kept.expired()


def _cache_among(values: Iterable[Any]) -> Any:
    """The key-value cache of transformers, whose name as an argument changes between versions."""
    return next((each for each in values if hasattr(type(each), "get_seq_length")), None)


def _named(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    if not args:
        return kwargs
    try:
        return inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
    except TypeError:  # which the module itself will raise, and say more
        return kwargs


def _first_tensor(values: Any) -> Tensor | None:
    return next((each for each in values if isinstance(each, Tensor) and each.is_floating_point()), None)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
