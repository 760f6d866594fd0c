"""The types of signatures that several topics of this room share; see `equipoise.core.types`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.scores import ScoreSpec, Side
from equipoise.core.types import ClassIndex, MayBeInfinite, Values

Direction: TypeAlias = ScoreSpec | Side
Ties: TypeAlias = Literal["strict", "half"]
Task: TypeAlias = Literal["multiclass", "multilabel"]
OnUndefined: TypeAlias = Literal["nan", "raise"]

_CORRECT = Values(((0, "wrong"), (1, "right")))
_CLASS = ClassIndex(dim=None)

SampleClasses: TypeAlias = Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], _CLASS]
KnownScores: TypeAlias = Annotated[Float[Tensor, " n_known"], MayBeInfinite()]
UnknownScores: TypeAlias = Annotated[Float[Tensor, " n_unknown"], MayBeInfinite()]
KnownCorrect: TypeAlias = Annotated[Integer[Tensor, " n_known"] | Bool[Tensor, " n_known"], _CORRECT]
KnownClasses: TypeAlias = Annotated[Integer[Tensor, " n_known"] | Bool[Tensor, " n_known"], _CLASS]
UnknownClasses: TypeAlias = Annotated[Integer[Tensor, " n_unknown"] | Bool[Tensor, " n_unknown"], _CLASS]
BaseScores: TypeAlias = Float[Tensor, " n_base"]
NewScores: TypeAlias = Float[Tensor, " n_new"]
BaseCorrect: TypeAlias = Annotated[Integer[Tensor, " n_base"] | Bool[Tensor, " n_base"], _CORRECT]
NewCorrect: TypeAlias = Annotated[Integer[Tensor, " n_new"] | Bool[Tensor, " n_new"], _CORRECT]
