"""GIE: relations choose between flat, hyperbolic and spherical space, by attention over one entity in each.

    q = w_E E + w_H H + w_S S                     see `interaction`
    z = exp₀(q) ⊕ exp₀(b)                         in the space of curvature κ
    score(h, r, t) = −dist(z, exp₀(t))² + b_h + b_t

Geometry Interaction Knowledge Graph Embeddings (Cao et al., AAAI 2022). The one-sided score is that of the authors'
code for WN18RR, with the spherical branch in spherical space throughout; the two-sided one is the paper's eq. 8–10:

    φ(h, r, t) = −(dist(exp₀(q), exp₀(t)) + dist(exp₀(q'), exp₀(h))) + b_h + b_t

where q' comes of the tail by the reverse transforms, with attention of its own. There, that points are mapped by exp₀
before they are compared is inferred, and translations stand on the left, for only then are the transforms reverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Positive, Real, Whole
from equipoise.knowledge.geometry.pairs import in_blocks
from equipoise.knowledge.geometry.stereographic import expmap0, safe_sqrt
from equipoise.knowledge.models.base import Query, Rows
from equipoise.knowledge.models.curvature import Curvature, CurvatureKind
from equipoise.knowledge.models.curved import CurvedModel, biased, tangent_dist_squared, translated
from equipoise.knowledge.models.interaction import Space, attend, candidates, carried, carried_back
from equipoise.knowledge.models.ties import exact_ties

SpaceName: TypeAlias = Literal["euclidean", "hyperbolic", "spherical"]
Vectors: TypeAlias = Float[Tensor, "n dim"]
PerTriple: TypeAlias = Float[Tensor, " n"]
_SIGNS = {"hyperbolic": -1, "spherical": 1}


class GIEScore(NamedTuple):
    """Scores of triples.

    Attributes:
        score: (n,).
        weights: (n, 3) of flat, hyperbolic and spherical space, which sum to 1.
    """

    score: Tensor
    weights: Tensor


@checked
def gie_score(
    head: Vectors,
    tail: Vectors,
    bias_head: PerTriple,
    bias_tail: PerTriple,
    rot_euclidean: Vectors,
    rot_hyperbolic: Vectors,
    rot_spherical: Vectors,
    translation: Vectors,
    attention: Vectors,
    kappa_hyperbolic: PerTriple | Real,
    kappa_spherical: PerTriple | Real,
    kappa: PerTriple | Real,
) -> GIEScore:
    """One-sided GIE scores of n triples, from the vectors of each.

    Args:
        head: (n, d), d even; tangent vectors at 0.
        tail: (n, d), likewise.
        bias_head: b_h.
        bias_tail: b_t.
        rot_euclidean: θ_E, pairs that point at angles, see `givens_rotation`.
        rot_hyperbolic: θ_H.
        rot_spherical: θ_S.
        translation: b, tangent vectors.
        attention: a.
        kappa_hyperbolic: κ_H, of any sign.
        kappa_spherical: κ_S, of any sign.
        kappa: κ of the space in which the tail is compared, of any sign.

    Returns:
        Scores, and the weights of the spaces.

    Raises:
        ValueError: if d is odd; on a bad argument, by name.

    >>> vectors = torch.randn(9, 3, 4, generator=torch.Generator().manual_seed(0)) * 0.5
    >>> h, t, e, p, s, b, a = vectors[:7]
    >>> score, weights = gie_score(h, t, torch.zeros(3), torch.zeros(3), e, p, s, b, a, -1.0, 1.0, -0.5)
    >>> score.shape, weights.sum(1)
    (torch.Size([3]), tensor([1.0000, 1.0000, 1.0000]))
    """
    bent, round_, target = (
        torch.as_tensor(each, dtype=head.dtype, device=head.device).expand(len(head))
        for each in (kappa_hyperbolic, kappa_spherical, kappa)
    )
    spaces: list[Space] = [(rot_euclidean, None), (rot_hyperbolic, bent), (rot_spherical, round_)]
    weights, mixture = attend(candidates(head, spaces, translation), attention, head.shape[1] ** -0.5)
    point = translated(mixture, translation, target)
    squared = tangent_dist_squared(point, target, tail[:, None]).squeeze(1)
    return GIEScore(bias_head + bias_tail - squared, weights)


class GIE(CurvedModel):
    """Geometry interaction: the spaces act on one vector, and their images are mixed before tails are compared.

    Args:
        num_entities: N.
        num_relations: M.
        dim: d, even.
        spaces: which of them interact.
        curvature: "relation" for curvatures of each relation, "shared" for those of all, "fixed" for ones that are not
            learned.
        two_sided: whether the tail is transformed back, too, as in the paper; see the module. Comparing all tails then
            costs a transform of all entities for each relation asked for.
        bias: whether heads and tails have biases.
        init_scale: standard deviation of the start of entities, translations and attention.
        seed: of the start.

    Attributes:
        rotations: (2M, d) of each space, by its name.
        attention: (2M, d); for two sides `attention_back` beside it.

    Raises:
        ValueError: if d is odd, if there is no space, or one stands twice; on a bad setting, by name.
        IndexError: when called, for an entity or relation that is not there.

    >>> model = GIE(5, 2, dim=4)
    >>> model.score_t(torch.tensor([0, 3]), torch.tensor([1, 2])).shape
    torch.Size([2, 5])
    >>> model.attention_weights(torch.tensor([0]), torch.tensor([1]))
    tensor([[0.3333, 0.3333, 0.3333]], grad_fn=<SoftmaxBackward0>)
    """

    @checked
    def __init__(
        self,
        num_entities: Count,
        num_relations: Count,
        dim: Count = 100,
        spaces: Sequence[SpaceName] = ("euclidean", "hyperbolic", "spherical"),
        curvature: CurvatureKind = "relation",
        two_sided: bool = False,
        bias: bool = True,
        *,
        init_scale: Positive = 1e-3,
        seed: Whole = 0,
    ) -> None:
        if not spaces or len(set(spaces)) < len(spaces):
            raise ValueError(f"spaces={spaces!r} must hold at least one of {', '.join(_NAMES)}, and none twice")
        generator = Generator().manual_seed(seed)
        bent = [_SIGNS[name] for name in spaces if name in _SIGNS]
        super().__init__(
            num_entities,
            num_relations,
            dim,
            Curvature([*bent, -1], 2 * num_relations, curvature),
            bias=bias,
            init_scale=init_scale,
            generator=generator,
        )
        self.spaces, self.two_sided = tuple(spaces), two_sided
        self.rotations = torch.nn.ParameterDict({name: self._uniform(generator) for name in spaces})
        self.attention = self._normal(2 * num_relations, generator)
        if two_sided:
            self.attention_back = self._normal(2 * num_relations, generator)

    def attention_weights(self, heads: Int[Tensor, " n"], relations: Int[Tensor, " n"]) -> Float[Tensor, "n spaces"]:
        """Weights of the spaces, in the order of `spaces`, which sum to 1: which geometry a relation uses.

        Raises:
            IndexError: if an entity or relation is not there.
        """
        return self._attended(self.rows(heads), relations)[0]

    def mixture(self, heads: Rows, relations: Tensor) -> Tensor:
        """The weighted images of the heads, see `CurvedModel.mixture`."""
        return self._attended(heads, relations)[1]

    def query(self, heads: Rows, relations: Tensor) -> Query:
        """What tails are compared with; with two sides, the heads and relations as well."""
        if not self.two_sided:
            return super().query(heads, relations)
        kappa = self.curvature(relations)[-1]
        found = expmap0(self.mixture(heads, relations), kappa), kappa, relations, expmap0(heads["entity"], kappa)
        return (*found, heads["bias_head"]) if "bias_head" in heads else found

    @exact_ties
    def compare(self, query: Query, tails: Rows) -> Tensor:
        """Distances with their sign changed, and biases, see `KGEModel.compare`."""
        if not self.two_sided:
            return biased(tangent_dist_squared(query[0], query[1], tails["entity"]), query[2:], tails)
        point, kappa, relations, head = query[:4]
        ahead = safe_sqrt(tangent_dist_squared(point, kappa, tails["entity"]))
        back = safe_sqrt(self._back_squared(head, kappa, relations, tails["entity"]))
        return biased(ahead + back, query[4:], tails)

    def _attended(self, heads: Rows, relations: Tensor) -> tuple[Tensor, Tensor]:
        spaces = self._spaces(relations)
        attention = self.relation_rows("attention", relations)
        translation = self.relation_rows("translation", relations)
        if self.two_sided:
            return attend(carried(heads["entity"], spaces, translation), attention, 1.0)
        return attend(candidates(heads["entity"], spaces, translation), attention, self.dim**-0.5)

    def _spaces(self, relations: Tensor) -> list[Space]:
        """Rotations (n, d) and curvatures (n,) of the relations."""
        curvatures = iter(self.curvature(relations))
        return [
            (self.relation_rows(f"rotations.{name}", relations), next(curvatures) if name in _SIGNS else None)
            for name in self.spaces
        ]

    def _back_squared(self, head: Tensor, kappa: Tensor, relations: Tensor, tails: Tensor) -> Tensor:
        """Squared distances of heads to what the reverse transforms make of tails."""
        if tails.ndim == 3:
            return tangent_dist_squared(head, kappa, self._back(tails, relations[:, None]))
        order = relations.argsort(stable=True)
        kinds, counts = relations.unique(return_counts=True)
        found = []
        for kind, places in zip(kinds, order.split(counts.tolist()), strict=True):

            def of_some(some: Tensor, kind: Tensor = kind) -> Tensor:
                return self._back(some, kind[None])

            images = in_blocks(of_some, tails, size=8 * len(self.spaces) * self.dim)
            found.append(tangent_dist_squared(head[places], kappa[places], images))
        return torch.cat(found)[order.argsort()] if found else head.new_zeros(0, len(tails))

    def _back(self, tails: Tensor, relations: Tensor) -> Tensor:
        """Tangent vectors of the tails' side, of tails (n, d) or (n, k, d) and relations (n,) or (n, 1)."""
        flat = relations.flatten()
        shape = (*relations.shape, self.dim)
        spaces = [
            (rotation.view(shape), None if kappa is None else kappa.view(relations.shape))
            for rotation, kappa in self._spaces(flat)
        ]
        attention, translation = (
            self.relation_rows(name, flat).view(shape) for name in ("attention_back", "translation")
        )
        return attend(carried_back(tails, spaces, translation), attention, 1.0)[1]


_NAMES = ("euclidean", "hyperbolic", "spherical")
