"""Samples of several modalities, read by rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex
from equipoise.core.validate import check_classes, check_finite

Source: TypeAlias = Tensor | Callable[[Tensor], Tensor]
"""All samples of a modality, (n, ...), or a function from (k,) row numbers to these samples, (k, ...)."""
Labelled: TypeAlias = tuple[Mapping[str, Source], Tensor]
"""Inputs by modality, and class indices (n,)."""
ClassIndices: TypeAlias = Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], ClassIndex(None)]


class Samples:
    """The inputs of all modalities and the classes of the same samples.

    Args:
        given: (inputs by modality, target (n,)).
        names: of the modalities, each of which must be there.
        num_classes: C.
        what: the name of the argument, for errors.

    Raises:
        ValueError: if a modality is missing or unknown, sizes disagree, an input is not finite, or a label is no class.
    """

    def __init__(self, given: Any, names: Sequence[str], num_classes: int, what: str) -> None:
        if not (isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], Mapping)):
            raise ValueError(f"{what} must be (inputs by modality, target), got {type(given).__name__}")
        inputs, target = given
        for name in inputs:
            if name not in names:
                known = ", ".join(map(repr, names))
                raise ValueError(f"{what} has {name!r}, which is no modality; there are {known}")
        self.target = _read_target(target)
        check_classes(self.target, num_classes)
        self.inputs: dict[str, Source] = {}
        for name in names:
            source = inputs.get(name)
            if isinstance(source, Tensor):
                if source.ndim == 0 or len(source) != len(target):
                    raise ValueError(
                        f"{what} has {name!r} of shape {tuple(source.shape)}, its target has {len(target)} samples"
                    )
                if source.is_floating_point():
                    check_finite(f"{name!r} of {what}", source)
            elif not callable(source):
                raise ValueError(f"{what} needs {name!r} as a torch.Tensor or a function of rows, got {source!r:.40}")
            self.inputs[name] = source

    def __len__(self) -> int:
        return len(self.target)

    def read(self, rows: Tensor, names: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """The inputs of some rows and modalities.

        Raises:
            ValueError: if a function of rows does not give a tensor with a sample for each.
        """
        found = {}
        for name in names:
            source = self.inputs[name]
            taken = source[rows.to(source.device)] if isinstance(source, Tensor) else source(rows)
            if not isinstance(taken, Tensor) or taken.ndim == 0 or len(taken) != len(rows):
                shape = tuple(taken.shape) if isinstance(taken, Tensor) else type(taken).__name__
                raise ValueError(
                    f"{name!r} must give a torch.Tensor of {len(rows)} samples for as many rows, got {shape}"
                )
            found[name] = taken.to(device)
        return found

    def classes(self, rows: Tensor, device: torch.device) -> Tensor:
        """The classes of some rows."""
        return self.target[rows].to(device)


@checked
def _read_target(target: ClassIndices) -> Tensor:
    return target.cpu()
