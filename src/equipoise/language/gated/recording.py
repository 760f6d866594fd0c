"""One pass of a model over a block of samples, with what every layer was given and what comes back to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from equipoise.language.gated.layers import Features, Reading

Inputs: TypeAlias = Tensor | Mapping[str, Tensor]
Readout: TypeAlias = Callable[[Any], Tensor]


def samples(x: Inputs) -> int:
    """How many samples the inputs hold."""
    return len(x) if isinstance(x, Tensor) else len(next(iter(x.values())))


def taken(x: Inputs, rows: slice) -> Inputs:
    """The inputs of some samples."""
    return x[rows] if isinstance(x, Tensor) else {name: value[rows] for name, value in x.items()}


def outputs(model: nn.Module, x: Inputs, readout: Readout | None) -> Tensor:
    """(n, c), the outputs of which the kernel is.

    Raises:
        ValueError: if the model, or `readout`, gives something else.
    """
    found = model(x) if isinstance(x, Tensor) else model(**x)
    if readout is not None:
        found = readout(found)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"the model returns a {type(found).__name__}; give readout, a function from that to outputs (n, c), such "
            "as `lambda out: out.last_hidden_state.mean(1)`"
        )
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or len(found) != samples(x):
        raise ValueError(
            f"outputs must be (n, c) with n = {samples(x)}, got {tuple(found.shape)}; give readout, a function from "
            "what the model returns to such outputs: a pooled one, or that of one token"
        )
    return found


class Recording:
    """A pass over a block.

    Args:
        model: that is run, in one graph.
        x: inputs of the block.
        readings: module name → how it is read.
        chosen: module name → (whether weights count, whether the bias does).
        readout: as in `outputs`.

    Attributes:
        outputs: (n, c).
        calls: module name → (input, output) of every call.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Inputs,
        readings: Mapping[str, Reading],
        chosen: Mapping[str, tuple[bool, bool]],
        readout: Readout | None,
    ) -> None:
        self._readings, self._chosen = readings, chosen
        self.calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in readings}
        modules = dict(model.named_modules())
        handles = [modules[name].register_forward_hook(self._hook(name), with_kwargs=True) for name in readings]
        try:
            self.outputs = outputs(model, x, readout)
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[..., Tensor]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], found: Tensor) -> Tensor:
            given = args[0] if args else next(iter(kwargs.values()))
            self.calls[name].append((given.detach(), found))
            # What is done to it in place, such as by ReLU(inplace=True), is done to an alias that autograd follows.
            return found.clone()

        return hook

    def gradients(self, of: Tensor) -> dict[str, list[Tensor]]:
        """The gradients of a scalar for what came out of each call; zero where it does not depend on it."""
        flat = [found for calls in self.calls.values() for _, found in calls]
        given = iter(
            torch.autograd.grad(of, flat, retain_graph=True, allow_unused=True, materialize_grads=True) if flat else ()
        )
        return {name: [next(given) for _ in calls] for name, calls in self.calls.items()}

    def features(self, numbers: Sequence[int]) -> dict[str, Features]:
        """What the kernel of every layer is made of, for some of the outputs."""
        deltas = [self.gradients(self.outputs[:, number].sum()) for number in numbers]
        found = {}
        for name, calls in self.calls.items():
            read, (weight, bias) = self._readings[name], self._chosen[name]
            inputs = torch.cat([read.inputs(given) for given, _ in calls], 1)
            rows = torch.stack([torch.cat([read.rows(each) for each in delta[name]], 1) for delta in deltas])
            found[name] = Features(read.kind, inputs, rows, weight, bias)
        return found
