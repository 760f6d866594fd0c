"""Whether what deviates from a prompt stays when the harmless parts of the prompt are changed.

A backdoor does not mind such changes, an ordinary mistake of the model does not come back. Over N pictures of changed
prompts, with p_n(o) the probability that a vision judge answers "yes, o is in picture n",

    s(o) = mean_n p_n(o)  for an object that is new,     s(o) = mean_n (1 − p_n(o))  for one that is lost,
    score = max_o s(o),  0 where nothing deviates,       flagged iff score ≥ τ,      τ = .999

"MirrorVerify" of BlackMirror (CVPR 2026), as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Fraction, MayBeEmpty, Range

YesProbabilities: TypeAlias = Annotated[Float[Tensor, "objects images"], Range(0, 1), MayBeEmpty()]


class VerifyResult(NamedTuple):
    """How stable deviations are.

    Attributes:
        stability: of every object "new:..." or "lost:..." its score in [0, 1].
        final_score: the highest; 0 where nothing deviates.
        flagged: whether it reaches the threshold.
    """

    stability: dict[str, float]
    final_score: float
    flagged: bool


@checked
def yes_no_probability(logit_yes: Float[Tensor, "*n"], logit_no: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Probability of "yes" among the two answers, the softmax of their logits.

    Args:
        logit_yes: (...) logits of "yes".
        logit_no: (...) logits of "no".

    Raises:
        ValueError: on a bad argument, by name.

    >>> import torch
    >>> yes_no_probability(torch.tensor([0.0, 3.0]), torch.tensor([0.0, 1.0]))
    tensor([0.5000, 0.8808])
    """
    return (logit_yes - logit_no).sigmoid()


@checked
def mirror_verify(
    new: Sequence[str], lost: Sequence[str], p_yes: YesProbabilities, threshold: Fraction = 0.999
) -> VerifyResult:
    """Score the objects that deviate by how surely they do so in every picture.

    Args:
        new: objects that nobody asked for.
        lost: objects that are missing.
        p_yes: (new + lost, images) probabilities that a picture holds the object, new objects first.
        threshold: τ in (0, 1].

    Raises:
        ValueError: on a bad argument, by name: if there are not as many rows as objects, no pictures, or an object
            twice.

    >>> import torch
    >>> found = mirror_verify(["cat"], ["dog"], torch.tensor([[1.0, 1.0], [0.0, 0.5]]))
    >>> found.stability, found.flagged
    ({'new:cat': 1.0, 'lost:dog': 0.75}, True)
    """
    names = [*(f"new:{name}" for name in new), *(f"lost:{name}" for name in lost)]
    if len(p_yes) != len(names):
        raise ValueError(f"p_yes has {len(p_yes)} rows, wanted one for each of {len(names)} new and lost objects")
    if names and not p_yes.shape[1]:
        raise ValueError("p_yes has no columns; at least one picture is needed")
    if len(set(names)) < len(names):
        raise ValueError(f"new and lost must name every object once, got {names}")
    held = p_yes.detach().cpu()
    rows = [*held[: len(new)].tolist(), *(1 - held[len(new) :]).tolist()]
    stability = {name: mean(row) for name, row in zip(names, rows, strict=True)}
    score = max(stability.values(), default=0.0)
    # A threshold of .9 is reached by probabilities of .9, which in float32 are a little less.
    least = float(torch.tensor(threshold, dtype=held.dtype))
    return VerifyResult(stability, score, bool(names) and score >= least)


def mean(values: Sequence[float], missing: float | None = None, count: int | None = None) -> float:
    """The mean, rounded once; of `count` values when those that are not known yet are all `missing`.

    Rounding once keeps the order: more of any value never gives a smaller mean, so bounds of it are bounds.

    >>> mean([0.5, 1.0]), mean([0.5], 1.0, 2)
    (0.75, 0.75)
    """
    count = len(values) if count is None else count
    rest = [] if missing is None else [missing] * (count - len(values))
    return math.fsum([*values, *rest]) / count
