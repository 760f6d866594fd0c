"""Models by name, and the score of triples whose vectors are given."""

from __future__ import annotations

import inspect
from typing import Any, Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count
from equipoise.core.validate import check_choice
from equipoise.knowledge.models.attention import AttH, RefH, RotE, RotH
from equipoise.knowledge.models.base import KGEModel
from equipoise.knowledge.models.bilinear import CP, RESCAL, ComplEx, DistMult, complex_products, products
from equipoise.knowledge.models.gie import GIE
from equipoise.knowledge.models.murp import MuRP
from equipoise.knowledge.models.translation import RotatE, TransE, distances, rotated, sums_of_moduli

MODELS: dict[str, type[KGEModel]] = {
    "atth": AttH,
    "complex": ComplEx,
    "cp": CP,
    "distmult": DistMult,
    "gie": GIE,
    "murp": MuRP,
    "refh": RefH,
    "rescal": RESCAL,
    "rotate": RotatE,
    "rote": RotE,
    "roth": RotH,
    "transe": TransE,
}
ScoreName: TypeAlias = Literal["cp", "distmult", "complex", "rescal", "transe", "rotate"]
Numbers: TypeAlias = Float[Tensor, "n d"] | Float[Tensor, "n d 2"]
_PAIRS = {"complex", "rotate"}


@checked
def build_model(name: str, num_entities: Count, num_relations: Count, dim: Count = 100, **options: Any) -> KGEModel:
    """A model by its name, one of `MODELS`.

    Args:
        name: such as "gie", "complex" or "transe".
        num_entities: N.
        num_relations: M.
        dim: d.
        options: of the model's class, such as `seed`.

    Raises:
        ValueError: if there is no such model or option; on a bad setting, by name.

    >>> type(build_model("complex", 5, 2, 8, seed=3)).__name__
    'ComplEx'
    """
    check_choice("name", name, MODELS)
    known = [option for option in inspect.signature(MODELS[name].__init__).parameters if option not in _GIVEN]
    for option in options:
        if option not in known:
            raise ValueError(f"{option} is no option of {name!r}; it has {', '.join(known)}")
    return MODELS[name](num_entities, num_relations, dim, **options)


@checked
def kg_score(
    model: ScoreName,
    head: Numbers,
    relation: Float[Tensor, "n d"] | Float[Tensor, "n d 2"] | Float[Tensor, "n d d"],
    tail: Numbers,
    norm: Literal[1, 2] = 2,
) -> Float[Tensor, " n"]:
    """Scores of n triples from the vectors of each.

    Args:
        model: "cp" and "distmult" Σ h r t; "complex" Re Σ h r t̄; "rescal" hᵀ R t; "transe" −|h + r − t|; "rotate"
            −Σ |h e^{ir} − t|.
        head: (n, d); of "complex" and "rotate" (n, d, 2), whose last axis is real and imaginary part.
        relation: as the head; of "rescal" (n, d, d), of "rotate" (n, d) angles in radians.
        tail: as the head.
        norm: of "transe", 1 or 2.

    Raises:
        ValueError: if shapes are not those of the model; on a bad argument, by name.

    >>> one, two = torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[2.0, 0.0]]])
    >>> kg_score("complex", one, one, two)
    tensor([-2.])
    >>> kg_score("rotate", one, torch.tensor([[torch.pi / 2]]), two)
    tensor([-3.])
    """
    n, d = head.shape[:2]
    entity = (n, d, 2) if model in _PAIRS else (n, d)
    wanted = {"head": entity, "relation": {"rescal": (n, d, d), "rotate": (n, d)}.get(model, entity), "tail": entity}
    for name, given in (("head", head), ("relation", relation), ("tail", tail)):
        if given.shape != wanted[name]:
            raise ValueError(f"{name} of {model!r} must have shape {wanted[name]}, got {tuple(given.shape)}")
    if model in _PAIRS:
        head, tail = head.flatten(1), tail.flatten(1)
    tails = tail[:, None]
    if model == "transe":
        return -distances(head + relation, tails, norm).squeeze(1)
    if model == "rotate":
        return -sums_of_moduli(rotated(head, relation), tails).squeeze(1)
    if model == "complex":
        image = complex_products(head, relation.flatten(1))
    else:
        image = products(head, relation.transpose(1, 2)) if model == "rescal" else head * relation
    return products(image, tails).squeeze(1)


_GIVEN = ("self", "num_entities", "num_relations", "dim")
