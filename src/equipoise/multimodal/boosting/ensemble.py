"""One classifier made of a learner per modality, whose logits are added.

    Φ(x) = β Σ_m φ_m(x_m)        φ_m a learner of its own, or a shared head upon an encoder of its own

β, the boost rate, is learned with the rest. The prediction is the class of the largest sum, which no β > 0 changes; the
probabilities do depend on it. A modality that is missing is left out of the sum.

Hua et al., ReconBoost, ICML 2024; as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.signature import check_finite, checked
from equipoise.core.types import Real

Excluded: TypeAlias = str | int | Sequence[str | int] | None
BoostRate: TypeAlias = Real | Float[Tensor, ""]


@checked
def ensemble_logits(
    per_modality_logits: Mapping[str, Tensor] | Float[Tensor, "modalities n classes"],
    boost_rate: BoostRate = 1.0,
    exclude: Excluded = None,
) -> Float[Tensor, "n classes"]:
    """The sum of the logits of all modalities but those excluded, times the boost rate.

    Args:
        per_modality_logits: (M, n, C), or (n, C) by name.
        boost_rate: β, a number or a scalar that is learned.
        exclude: a modality by name or by place from 0, a sequence of these, or None.

    Raises:
        ValueError: if shapes differ, a value is not finite, a modality to exclude is not there, or none is left.

    >>> parts = {"audio": torch.tensor([[1.0, 0.0]]), "video": torch.tensor([[0.0, 3.0]])}
    >>> ensemble_logits(parts, 0.5), ensemble_logits(parts, exclude="video")
    (tensor([[0.5000, 1.5000]]), tensor([[1., 0.]]))
    """
    names: Sequence[str] | int
    if isinstance(per_modality_logits, Tensor):
        names, stacked = len(per_modality_logits), list(per_modality_logits)
    else:
        names, stacked = list(per_modality_logits), read_parts(per_modality_logits)
    if stacked[0].shape[1] < 2:
        raise ValueError(f"per_modality_logits must have at least 2 classes, got shape {tuple(stacked[0].shape)}")
    left = kept(names, exclude)
    total = stacked[left[0]]
    for place in left[1:]:
        total = total + stacked[place]
    return boost_rate * total


def kept(names: Sequence[str] | int, exclude: Excluded) -> list[int]:
    """Places of the modalities that are not excluded; by place only where a number stands for the names.

    Raises:
        ValueError: if one is not there, or none is left.
    """
    count = names if isinstance(names, int) else len(names)
    out = {_place(names, count, one) for one in _several(exclude)}
    left = [place for place in range(count) if place not in out]
    if not left:
        raise ValueError(f"exclude={exclude!r} leaves no modality of {_list(names)}; keep at least one")
    return left


class ModalityEnsemble(nn.Module):
    """Learners of the modalities, whose logits are added.

    Args:
        learners: name → module from an input (n, ...) to logits (n, C), or with a shared head to features (n, d). Of a
            sequence the names are "0", "1", ….
        boost_rate: β to begin with; it is a parameter.
        shared_head: a module from features (n, d) to logits (n, C), the same for all modalities.

    Attributes:
        names: of the modalities.
        boost_rate: β, a scalar.

    Raises:
        ValueError: if there is no learner, or β is not finite.

    >>> ensemble = ModalityEnsemble({"audio": nn.Linear(2, 3), "video": nn.Linear(5, 3)})
    >>> audio, video = torch.randn(4, 2), torch.randn(4, 5)
    >>> whole, parts = ensemble({"audio": audio, "video": video}, return_parts=True)
    >>> bool((whole - parts["audio"]).allclose(parts["video"], atol=1e-6)), ensemble({"video": video}).shape
    (True, torch.Size([4, 3]))
    """

    @checked
    def __init__(
        self,
        learners: Mapping[str, nn.Module] | Sequence[nn.Module],
        boost_rate: Real = 1.0,
        shared_head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        named = dict(learners) if isinstance(learners, Mapping) else {str(k): one for k, one in enumerate(learners)}
        if not named:
            raise ValueError("learners is empty; at least one modality is needed")
        for name, learner in named.items():
            if not (isinstance(name, str) and isinstance(learner, nn.Module)):
                raise ValueError(f"learners must be modules by name, got {learner!r} as {name!r}")
        self.names = tuple(named)
        # No ModuleDict, which refuses names such as "keys" and "a.b".
        self.learners = nn.ModuleList(named.values())
        self.shared_head = shared_head
        device = next((parameter.device for parameter in self.parameters()), None)
        self.boost_rate = nn.Parameter(torch.tensor(float(boost_rate), device=device))

    @checked
    def forward(
        self, inputs: Mapping[str, Any], exclude: Excluded = None, return_parts: bool = False
    ) -> Float[Tensor, "n classes"] | tuple[Float[Tensor, "n classes"], dict[str, Float[Tensor, "n classes"]]]:
        """The logits of the sum.

        Args:
            inputs: name → input (n, ...); modalities that are missing, or None, are left out.
            exclude: modalities to leave out, by name or place.
            return_parts: whether to give the logits of each modality, by name and without β, beside the sum.

        Raises:
            ValueError: if a name is unknown, one to exclude is not among the inputs, no modality is left, or learners
                give different numbers of classes.
        """
        parts = {name: self.part(name, inputs[name]) for name in self.present(inputs, exclude)}
        total = ensemble_logits(parts, self.boost_rate)
        return (total, parts) if return_parts else total

    def learner(self, name: str) -> nn.Module:
        """The module of a modality."""
        return self.learners[self.names.index(name)]

    def part(self, name: str, x: Any) -> Tensor:
        """Logits (n, C) of one modality, without β."""
        features = self.learner(name)(x)
        found: Tensor = features if self.shared_head is None else self.shared_head(features)
        return found

    def present(self, inputs: Mapping[str, Any], exclude: Excluded = None) -> list[str]:
        """Names of the modalities that are given and not excluded, in their order.

        Raises:
            ValueError: if a name is unknown, one to exclude is not among the inputs, or no modality is left.
        """
        unknown = [name for name in inputs if name not in self.names]
        if unknown:
            raise ValueError(f"inputs has {unknown[0]!r}, which is no modality; there are {_list(self.names)}")
        given = [name for name in self.names if inputs.get(name) is not None]
        if not given:
            raise ValueError(f"inputs has none of the modalities {_list(self.names)}; give at least one")
        # A place is that among all modalities, whichever are given.
        named = [self.names[_place(self.names, len(self.names), one)] for one in _several(exclude)]
        return [given[k] for k in kept(given, named)]


def _several(exclude: Excluded) -> Sequence[str | int]:
    return [] if exclude is None else [exclude] if isinstance(exclude, str | int) else exclude


def _place(names: Sequence[str] | int, count: int, wanted: Any) -> int:
    if isinstance(names, Sequence) and wanted in names:
        return names.index(wanted)
    if isinstance(wanted, int) and not isinstance(wanted, bool) and 0 <= wanted < count:
        return wanted
    raise ValueError(f"exclude holds {wanted!r}, which is not among the modalities; there are {_list(names)}")


def _list(names: Sequence[str] | int) -> str:
    if isinstance(names, int):
        return f"0 to {names - 1}"
    return ", ".join(map(repr, names))


def read_parts(parts: Mapping[str, Tensor]) -> list[Tensor]:
    """The logits of each modality, of one shape and in float32 at least.

    Raises:
        ValueError: if there is none, shapes differ, or a value is not finite; the modality is named.
    """
    if not parts:
        raise ValueError("per_modality_logits is empty; at least one modality is needed")
    found: list[Tensor] = []
    for name, logits in parts.items():
        where = f"per_modality_logits[{name!r}]"
        if not isinstance(logits, Tensor):
            raise ValueError(f"{where} must be a torch.Tensor, got {type(logits).__name__}")
        if not logits.is_floating_point():
            raise ValueError(f"{where} must be floating point, got {logits.dtype}; convert it with .float()")
        if logits.ndim != 2 or 0 in logits.shape:
            raise ValueError(f"{where} must have shape (n, classes), none of them 0, got {tuple(logits.shape)}")
        if found and logits.shape != found[0].shape:
            first = next(iter(parts))
            raise ValueError(
                f"{where} has shape {tuple(logits.shape)}, that of {first!r} is {tuple(found[0].shape)}; all "
                "modalities must give the same samples and classes"
            )
        if not torch.compiler.is_compiling():
            check_finite(where, logits)
        found.append(logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits)
    return found
