"""A text as far from the pictures of one attribute value as from those of another, and all attribute texts as close.

A neutral prompt gives mostly one kind of person because its embedding is nearer to the pictures of that kind. With
t̂ = t / |t|, d(a, b) = 1 − â·b̂, centres μ_k of the pictures of value k and pictures v_kj,

    D_k = d(t, μ_k)             l_o = 2 / (A (A − 1)) Σ_{k<l} (D_k − D_l)²                             equalized odds
    R_k = mean_j d(t_k, v_kj)   l_q = 2 / (A (A − 1)) Σ_{k<l} (R_k − R_l)² + pull · mean_k R_k         equalized quality

where t is the neutral prompt and t_k the one that names value k. Both sums over pairs are 2A / (A − 1) variances, and
R_k = 1 − t̂_k · mean_j v̂_kj needs no more of the pictures than their mean. For shares p that are not equal, D_k is
replaced by D_k + log(p_k) / κ: then softmax(−κ D) = p where the loss is 0, with κ the scale of CLIP's logits.

Source: LightFair, NeurIPS 2025. Reconstructed: the authors published no code, and of the paper the abstract and the
overview figure were known; they name the two terms, every formula here is inferred from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.reduction import attached_zero
from equipoise.core.signature import checked
from equipoise.core.types import NonNegative, Positive, Scalar
from equipoise.core.validate import warn_once

Distance: TypeAlias = Literal["cosine", "euclidean"]
_COINCIDENT = "the centres of {} coincide, so there is no direction to balance; the loss of such a prompt is 0"


@checked
def attribute_centers(
    image_embeddings: Mapping[str, Tensor], weights: Mapping[str, Tensor] | None = None
) -> Float[Tensor, "attributes d"]:
    """Unit centres of the pictures of each attribute value: the mean of unit embeddings, brought to norm 1.

    Args:
        image_embeddings: value → (n, D) embeddings of its pictures, of any norm but 0.
        weights: value → (n,) nonnegative weights of these pictures, such as how much of one is foreground; all the same
            if absent.

    Returns:
        (A, D), in the order of the mapping.

    Raises:
        ValueError: on fewer than two values, a value without pictures, embeddings that are not (n, D) with one D, of
            norm zero or not finite, weights that do not fit or sum to zero, or pictures that cancel out.

    >>> attribute_centers({"red": torch.tensor([[2.0, 0.0], [0.0, 1.0]]), "blue": torch.tensor([[0.0, 3.0]])})
    tensor([[0.7071, 0.7071],
            [0.0000, 1.0000]])
    """
    _check_pictures(image_embeddings)
    if weights is not None and set(weights) != set(image_embeddings):
        raise ValueError(f"weights are of {sorted(weights)}, image_embeddings of {sorted(image_embeddings)}")
    centers = []
    for name, embeddings in image_embeddings.items():
        rows = unit(f"image_embeddings[{name!r}]", embeddings)
        each = rows.new_ones(len(rows)) if weights is None else _weights_of(name, weights[name], rows)
        mean = (rows * each[:, None]).sum(0) / each.sum()
        # Opposite pictures cancel up to rounding only.
        if float(mean.detach().norm()) <= 8 * torch.finfo(mean.dtype).eps:
            raise ValueError(f"the pictures of {name!r} cancel out: their mean has norm zero, so they have no centre")
        centers.append(mean / mean.norm())
    return torch.stack(centers)


@checked
def attribute_distances(
    text: Float[Tensor, "n d"], centers: Float[Tensor, "n attributes d"], distance: Distance = "cosine"
) -> Float[Tensor, "n attributes"]:
    """Distance D of every text to the centre of every attribute value.

    Args:
        text: (N, D) text embeddings, of any norm but 0.
        centers: (N, A, D) centres, one row of them for each text.
        distance: "cosine" for 1 − cosine, or "euclidean" between unit vectors, √(2 (1 − cosine)).

    Returns:
        (N, A).

    Raises:
        ValueError: on fewer than two attributes or an embedding of norm zero.

    >>> attribute_distances(torch.tensor([[2.0, 0.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    tensor([[0., 1.]])
    """
    check_attributes("centers", centers.shape[1])
    return distances_of_units(unit("text", text)[:, None], unit("centers", centers), distance)


@checked
def equalized_odds_loss(
    text: Float[Tensor, "n d"],
    centers: Float[Tensor, "n attributes d"],
    target: Sequence[float] | None = None,
    distance: Distance = "cosine",
    *,
    logit_scale: Positive = 100.0,
) -> Scalar:
    """How unequally far texts are from the attribute values: mean squared difference over pairs of values and texts.

    Args:
        text: (N, D) embeddings of neutral prompts; gradients flow here.
        centers: (N, A, D) centres of pictures, one row of them for each prompt.
        target: A shares above 0 with sum 1 that a softmax of the distances should have; equal ones if absent.
        distance: see `attribute_distances`.
        logit_scale: κ, the factor on the cosines of the CLIP model; read with `target` only.

    Returns:
        Scalar, 0 where all (shifted) distances of a text are the same.

    Raises:
        ValueError: on fewer than two attributes, an embedding of norm zero, or a target that is not such shares.

    Warns:
        UserWarning: once, where all centres of a prompt are one point: there is nothing to balance, its loss is 0.

    >>> equalized_odds_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
    tensor(1.)
    """
    found = attribute_distances(text, centers, distance)
    if target is not None:
        found = found + found.new_tensor(log_shares(target, centers.shape[1])) / logit_scale
    same = coincident(centers.detach())
    if not torch.compiler.is_compiling() and bool(same.any()):
        warn_once(_COINCIDENT.format(f"{int(same.sum())} of {len(same)} prompts"))
        if bool(same.all()):
            return attached_zero(text, centers)
    return pair_spread(found).masked_fill(same, 0.0).mean()


@checked
def equalized_radii(
    text: Float[Tensor, "attributes d"],
    images: Sequence[Float[Tensor, "_pictures d"]],
    distance: Distance = "cosine",
) -> Float[Tensor, " attributes"]:
    """Mean distance R of every attribute prompt to its own pictures.

    Args:
        text: (A, D) embeddings of the prompts that name a value, of any norm but 0.
        images: of every value the (n_k, D) embeddings of its pictures.
        distance: see `attribute_distances`; the cosine needs the mean of the pictures only.

    Returns:
        (A,).

    Raises:
        ValueError: on fewer than two attributes, a value without pictures, another width, or a norm of zero.

    >>> equalized_radii(torch.eye(2), [torch.eye(2), torch.tensor([[0.0, 2.0]])])
    tensor([0.5000, 0.0000])
    """
    check_attributes("text", len(text))
    if len(images) != len(text):
        raise ValueError(f"images holds pictures of {len(images)} attributes, text has {len(text)}")
    rows, units = unit("text", text), []
    for place, pictures in enumerate(images):
        if pictures.shape[1] != text.shape[1]:
            raise ValueError(f"images[{place}] is of width {pictures.shape[1]}, text of {text.shape[1]}")
        units.append(unit(f"images[{place}]", pictures))
    if distance == "cosine":
        return radii_of_means(rows, torch.stack([each.mean(0) for each in units]))
    each = (distances_of_units(row, pictures, distance) for row, pictures in zip(rows, units, strict=True))
    return torch.stack([distances.mean() for distances in each])


@checked
def equalized_quality_loss(
    text: Float[Tensor, "attributes d"],
    images: Sequence[Float[Tensor, "_pictures d"]],
    pull: NonNegative = 0.1,
    distance: Distance = "cosine",
) -> Scalar:
    """How unequally close attribute prompts are to their own pictures, and how far they all are.

    Args:
        text: (A, D) embeddings of the prompts that name a value; gradients flow here.
        images: of every value the (n_k, D) embeddings of its pictures.
        pull: weight of the mean distance, which keeps prompts from becoming equal by becoming equally bad.
        distance: see `attribute_distances`.

    Returns:
        Scalar.

    Raises:
        ValueError: as `equalized_radii`.

    >>> equalized_quality_loss(torch.eye(2), [torch.eye(2), torch.tensor([[0.0, 2.0]])], pull=0.1)
    tensor(0.2750)
    """
    radii = equalized_radii(text, images, distance)
    return pair_spread(radii) + pull * radii.mean()


def check_attributes(name: str, count: int) -> None:
    """Raise `ValueError` where there are fewer than two attribute values."""
    if count < 2:
        raise ValueError(f"{name} holds {count} attribute value{'s' if count != 1 else ''}, at least 2 are needed")


def unit(name: str, rows: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """Vectors of norm 1.

    Raises:
        ValueError: if one has norm zero.

    >>> unit("text", torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """
    # Divided by the largest entry first, so that squares neither overflow nor vanish.
    largest = rows.detach().abs().amax(-1, keepdim=True)
    if not torch.compiler.is_compiling() and bool((largest == 0).any()):
        place = (largest[..., 0] == 0).nonzero()[0].tolist() if rows.ndim > 1 else []
        where = f"row {place[0] if len(place) == 1 else tuple(place)} of {name}" if place else name
        raise ValueError(f"{where} has norm zero, so its direction is undefined")
    rows = rows / largest
    return rows / rows.norm(dim=-1, keepdim=True)


def distances_of_units(a: Tensor, b: Tensor, distance: Distance) -> Tensor:
    """Distances along the last dimension of unit vectors, which are broadcast."""
    # A product of elements, which autocast leaves in full precision.
    if distance == "cosine":
        return 1 - (a * b).sum(-1)
    squared = ((a - b) ** 2).sum(-1)
    # The root has no slope at 0; there the distance is smallest, and its gradient is taken to be 0.
    zero = squared == 0
    return squared.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def radii_of_means(text: Tensor, means: Tensor) -> Tensor:
    """Mean cosine distances (...) of unit texts (..., D) to pictures, from the means of their unit embeddings."""
    return 1 - (text * means).sum(-1)


def pair_spread(values: Float[Tensor, "*n attributes"]) -> Float[Tensor, "*n"]:
    """Mean of (x_k − x_l)² over pairs of the last dimension.

    >>> pair_spread(torch.tensor([0.0, 1.0, 3.0]))
    tensor(4.6667)
    """
    count = values.shape[-1]
    centred = values - values.detach().mean(-1, keepdim=True)
    return 2 / (count - 1) * (centred - centred.mean(-1, keepdim=True)).square().sum(-1)


def coincident(centers: Float[Tensor, "*n attributes d"]) -> Tensor:
    """(*n) where all centres of a row are one point, up to rounding."""
    rows = unit("centers", centers)
    return (rows - rows[..., :1, :]).abs().amax((-1, -2)) <= 8 * torch.finfo(rows.dtype).eps


def log_shares(target: Sequence[float], count: int) -> list[float]:
    """Logarithms of wanted shares.

    Raises:
        ValueError: unless they are one for each of `count` values, above 0 and of sum 1.
    """
    if len(target) != count:
        raise ValueError(f"target holds {len(target)} shares for {count} attribute values")
    if not all(0 < share <= 1 for share in target):
        raise ValueError(f"target={tuple(target)} must hold shares greater than 0; leave out a value that is unwanted")
    if abs(math.fsum(target) - 1) > 1e-6:
        raise ValueError(f"target={tuple(target)} must sum to 1, its sum is {math.fsum(target):g}")
    return [math.log(share) for share in target]


def _check_pictures(image_embeddings: Mapping[str, Tensor]) -> None:
    check_attributes("image_embeddings", len(image_embeddings))
    widths = set()
    for name, embeddings in image_embeddings.items():
        where = f"image_embeddings[{name!r}]"
        if not isinstance(embeddings, Tensor):
            raise ValueError(f"{where} must be a torch.Tensor, got {type(embeddings).__name__}")
        if not embeddings.is_floating_point():
            raise ValueError(f"{where} must be floating point, got {embeddings.dtype}; convert it with .float()")
        if embeddings.ndim != 2:
            raise ValueError(f"{where} must have shape (n, d), got {tuple(embeddings.shape)}")
        if not len(embeddings):
            raise ValueError(f"{where} is empty: no picture of {name!r}; generate some, or leave the value out")
        if not bool(embeddings.isfinite().all()):
            raise ValueError(f"{where} holds NaN or infinite values")
        widths.add(embeddings.shape[1])
    if len(widths) > 1:
        raise ValueError(f"image_embeddings are of different widths: {sorted(widths)}")


def _weights_of(name: str, weights: Tensor, rows: Tensor) -> Tensor:
    each = torch.as_tensor(weights, dtype=rows.dtype, device=rows.device)
    if each.shape != rows.shape[:1]:
        raise ValueError(f"weights[{name!r}] must have shape ({len(rows)},), got {tuple(each.shape)}")
    if not bool((each.isfinite() & (each >= 0)).all()):
        raise ValueError(f"weights[{name!r}] must be finite and at least 0")
    if not bool((each > 0).any()):
        raise ValueError(f"weights[{name!r}] are all 0, so no picture of {name!r} counts")
    return each
