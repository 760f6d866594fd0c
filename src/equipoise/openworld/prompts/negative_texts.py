"""Negative texts: what an image is compared with besides the names of the known classes, to see whether it is foreign.

An image x is known if it is nearer to the class texts t_c than to texts q that fit no class. Negatives are mostly
picked by their distance to the class *texts*; but a model of images and text was only ever taught distances between an
image and a text. So measure them there, from the class's mean image v_c (all rows of norm 1):

    keep q if        q·v_c < t_c·v_c  for every class c
    deviation        D(q) = mean_c (t_c·v_c − q·v_c) = mean_c t_c·v_c − q·v̄,      v̄ = mean_c v_c
    choose           the m largest D

    score            S(x) = mean over groups g of  Σ_c e^{s x·t_c} / (Σ_c e^{s x·t_c} + Σ_{q in g} e^{s x·q})
                          = mean_g sigmoid(LSE_c s x·t_c − LSE_{q in g} s x·q)           in [0, 1], higher for known

Near 1 most digits of S go to the leading nines, and samples tie; `negative_log_odds` gives log S / (1 − S), which keeps
their order whatever the scale.

Baselines: `neglabel_select` picks by text-to-text distance and is scored by the same S; `mcm_score` needs no negatives.

Xu et al., "Mind the Way You Select Negative Texts: Pursuing the Distance Consistency in OOD Detection with VLMs", CVPR
2026. The form through v̄ and the stable form of S are ours. Jiang et al., "Negative Label Guided OOD Detection with
Pretrained Vision-Language Models" (NegLabel), ICLR 2024. Ming et al., "Delving into Out-of-Distribution Detection with
Vision-Language Representations" (MCM), NeurIPS 2022.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torch.nn.functional import logsigmoid

from equipoise.core.models.two_tower import TwoTower, cosines, encode_texts, unit_rows
from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex, Count, Fraction, MayBeEmpty, Positive, Range, Scores
from equipoise.core.validate import check_classes, warn_once
from equipoise.openworld.types import SampleClasses

_log = logging.getLogger(__name__)

# A candidate that is a class's own text ties with it; the last digits of two sums must not decide that.
_ROUNDING = 1e-12
_TEXTS_AT_ONCE = 512

ImageFeatures: TypeAlias = Float[Tensor, "n d"]
ClassFeatures: TypeAlias = Float[Tensor, "classes d"]
Candidates: TypeAlias = Float[Tensor, "candidates d"]
NegativeFeatures: TypeAlias = Annotated[Float[Tensor, "m d"], MayBeEmpty()]
Permutation: TypeAlias = Annotated[Integer[Tensor, " m"], ClassIndex(dim="m"), MayBeEmpty()]


class TextSelection(NamedTuple):
    """Which candidates were chosen as negatives.

    Attributes:
        indices: (k,) of the chosen candidates, by falling deviation (within each pool, if there are pools).
        deviation: (k,) their deviations D, above 0 where every class must be passed.
        base_similarity: (C,) t_c·v_c, what a candidate has to stay below.
        num_passing: how many candidates passed the rule.
    """

    indices: Int[Tensor, " k"]
    deviation: Float[Tensor, " k"]
    base_similarity: Float[Tensor, " classes"]
    num_passing: int


@checked
def class_image_prototypes(features: ImageFeatures, target: SampleClasses, num_classes: Count) -> ClassFeatures:
    """The mean direction of every class: normalised mean of its normalised image features.

    Args:
        features: (n, d) image features, of any norm; 16 per class are the paper's setting.
        target: (n,) their classes.
        num_classes: C.

    Returns:
        (C, d), rows of norm 1.

    Raises:
        ValueError: on a bad argument, by name; if a class has no image, or a row is zero.

    >>> class_image_prototypes(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 1, 1]), 2)
    tensor([[1., 0.],
            [0., 1.]])
    """
    check_classes(target, num_classes)
    unit = unit_rows("features", features.double())
    counts = torch.bincount(target, minlength=num_classes)
    if bool((counts == 0).any()):
        missing = int((counts == 0).nonzero()[0, 0])
        raise ValueError(f"class {missing} has no image, so it has no prototype; give at least one of every class")
    sums = unit.new_zeros(num_classes, unit.shape[1]).index_add_(0, target, unit)
    return unit_rows("the class means", sums).to(features.dtype)


@checked
def select_negative_texts(
    id_text: ClassFeatures,
    id_image_prototypes: ClassFeatures,
    candidates: Candidates,
    m: Count,
    *,
    pools: Annotated[Integer[Tensor, " candidates"], Range(0)] | None = None,
    min_share: Fraction = 1.0,
    chunk: Count = 8192,
) -> TextSelection:
    """Choose negative texts by their distance to images of the known classes.

    Rows are normalised here. Products are taken in float64 and in chunks: memory is O(n + chunk · C), not O(n C).

    Args:
        id_text: (C, d) features of the class texts t.
        id_image_prototypes: (C, d) mean images v, as of `class_image_prototypes`.
        candidates: (n, d) features of the candidate texts q.
        m: how many to choose, at least 1; all that pass, with a warning, if they are fewer.
        pools: (n,) numbers from 0 of the word list each candidate is from (the paper has adjectives and nouns). Each
            pool then gets its share of m by the number of its candidates that pass, is ranked by itself, and the pools
            follow each other in the result.
        min_share: share of the classes, in (0, 1], for which q·v_c < t_c·v_c must hold. The paper wants all.
        chunk: candidates at once.

    Returns:
        A `TextSelection`. Ties of the deviation are broken by the order of the candidates.

    Raises:
        ValueError: on a bad argument, by name; if a row is zero, or no candidate passes.

    >>> t = v = torch.eye(3)[:2]
    >>> chosen = select_negative_texts(t, v, torch.tensor([[0.6, 0.0, 0.8], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), m=2)
    >>> chosen.indices, chosen.deviation
    (tensor([2, 0]), tensor([1.0000, 0.7000]))
    """
    text = unit_rows("id_text", id_text.double())
    images = unit_rows("id_image_prototypes", id_image_prototypes.double())
    base = (text * images).sum(1)
    enough = _ceil(min_share * len(base))
    passes, deviation = [], []
    for q in _unit_chunks(candidates, chunk):
        passes.append((cosines(q, images) < base - _ROUNDING).sum(1) >= enough)
        deviation.append(base.mean() - cosines(q, images.mean(0, keepdim=True)).squeeze(1))
    passed, deviations = torch.cat(passes), torch.cat(deviation)
    num_passing = int(passed.sum())
    if not num_passing:
        raise ValueError(
            f"none of {len(candidates)} candidates is farther than the class texts from "
            f"{'every class' if min_share == 1 else f'{enough} classes'}; relax the rule with min_share below "
            f"{min_share:g}, or give other candidates"
        )
    if num_passing < m:
        warn_once(f"only {num_passing} of {len(candidates)} candidates pass the rule, fewer than m={m}; all are taken")
    chosen = torch.cat(list(_by_quota(passed, deviations, min(m, num_passing), pools)))
    return TextSelection(chosen, deviations[chosen].to(candidates.dtype), base.to(candidates.dtype), num_passing)


def _by_quota(passed: Tensor, deviation: Tensor, m: int, pools: Tensor | None) -> Iterator[Tensor]:
    """The chosen candidates of every pool; the shares are cut from a running sum, so that they add up to m and no pool
    is asked for more than it has. For two pools the first has ⌊m n_1 / n⌋."""
    total, before = int(passed.sum()), 0
    groups = [passed] if pools is None else [passed & (pools == p) for p in range(int(pools.max()) + 1)]
    for group in groups:
        members = group.nonzero().squeeze(1)
        quota = m * (before + len(members)) // total - m * before // total
        before += len(members)
        yield members[torch.sort(deviation[members], descending=True, stable=True).indices[:quota]]


@checked
def neglabel_select(
    id_text: ClassFeatures, candidates: Candidates, m: Count, *, quantile: Fraction = 0.95, chunk: Count = 8192
) -> Int[Tensor, " k"]:
    """The baseline's choice, text to text: candidates whose similarity to the class texts has the lowest quantile.

    Use it with `grouped_negative_score` for the score of NegLabel.

    Args:
        id_text: (C, d) features of the class texts.
        candidates: (n, d) features of the candidate texts.
        m: how many to choose; all if there are fewer.
        quantile: p in (0, 1]: of a candidate's C cosines in rising order, the ⌈p C⌉-th is its closeness. (The authors'
            code has one index per data set; for 1,000 classes it is the one after this.)
        chunk: candidates at once.

    Returns:
        (min(m, n),) indices by rising closeness, ties by the order of the candidates.

    Raises:
        ValueError: on a bad argument, by name; if a row is zero.

    >>> neglabel_select(torch.eye(2), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [-1.0, -1.0]]), m=2)
    tensor([2, 1])
    """
    text = unit_rows("id_text", id_text.double())
    k = _ceil(quantile * len(text))
    closeness = torch.cat([cosines(q, text).kthvalue(k, dim=1).values for q in _unit_chunks(candidates, chunk)])
    return torch.sort(closeness, stable=True).indices[:m]


@checked
def grouped_negative_score(
    image_features: ImageFeatures,
    id_text: ClassFeatures,
    negative_text: NegativeFeatures,
    *,
    scale: Positive = 100.0,
    groups: Count = 1,
    permutation: Permutation | None = None,
) -> Scores:
    """Share of the softmax that falls on the class texts, averaged over groups of negatives; higher for known images.

    Args:
        image_features: (n, d), normalised here as all rows.
        id_text: (C, d) class texts.
        negative_text: (m, d) negatives.
        scale: factor on cosines, above 0; CLIP's is 100.
        groups: in how many groups of equal size the negatives are split. What m / groups leaves over is dropped from
            the end; more groups than negatives become as many as there are negatives.
        permutation: (m,) order in which negatives are taken before they are split; as given where None.

    Returns:
        (n,) in [0, 1], in float64, differentiable. Without any negative that would be 1 for every image, so `mcm_score`
        is returned instead, with a warning.

    Raises:
        ValueError: on a bad argument, by name; if a row is zero, or the permutation is none.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> grouped_negative_score(x, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), scale=2.0)
    tensor([0.8808, 0.1192], dtype=torch.float64)
    """
    if not len(negative_text):
        warn_once("there are no negative texts, so every score would be 1; the MCM score is given instead")
        return mcm_score(image_features, id_text, scale=scale)
    odds = negative_log_odds(
        image_features, id_text, negative_text, scale=scale, groups=groups, permutation=permutation
    )
    return odds.double().sigmoid()


@checked
def negative_log_odds(
    image_features: ImageFeatures,
    id_text: ClassFeatures,
    negative_text: Float[Tensor, "m d"],
    *,
    scale: Positive = 100.0,
    groups: Count = 1,
    permutation: Permutation | None = None,
) -> Scores:
    """log S / (1 − S) of `grouped_negative_score`, which has the same order and no ends at which samples tie.

    Args:
        image_features: as in `grouped_negative_score`.
        id_text: as in `grouped_negative_score`.
        negative_text: (m, d) at least one.
        scale: as in `grouped_negative_score`.
        groups: as in `grouped_negative_score`.
        permutation: as in `grouped_negative_score`.

    Returns:
        (n,), differentiable.

    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> negative_log_odds(x, torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor([ 100., -100.])
    """
    if permutation is not None:
        if len(permutation.unique()) < len(permutation):
            raise ValueError(f"permutation must hold every index from 0 to {len(permutation) - 1} once")
        negative_text = negative_text[permutation]
    groups = min(groups, len(negative_text))
    kept = len(negative_text) // groups * groups
    x, text = unit_rows("image_features", image_features), unit_rows("id_text", id_text)
    negatives = unit_rows("negative_text", negative_text)[:kept]
    known = (scale * cosines(x, text)).logsumexp(1)
    foreign = (scale * cosines(x, negatives)).unflatten(1, (groups, kept // groups)).logsumexp(2)
    # In float64, since groups that disagree leave a sum near 0.
    apart = (known[:, None] - foreign).double()
    return (logsigmoid(apart).logsumexp(1) - logsigmoid(-apart).logsumexp(1)).to(x.dtype)


@checked
def mcm_score(
    image_features: ImageFeatures, id_text: ClassFeatures, *, scale: Positive = 100.0, temperature: Positive = 1.0
) -> Scores:
    """Maximum softmax probability over the class texts, without negatives; higher for known images.

    Args:
        image_features: (n, d), normalised here.
        id_text: (C, d) class texts, normalised here.
        scale: factor on cosines, above 0.
        temperature: what the scaled cosines are divided by, above 0.

    Returns:
        (n,) in [1/C, 1], in float64.

    Raises:
        ValueError: on a bad argument, by name; if a row is zero.

    >>> mcm_score(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.eye(2), scale=2.0)
    tensor([0.8808, 0.5000], dtype=torch.float64)
    """
    x, text = unit_rows("image_features", image_features), unit_rows("id_text", id_text)
    return (scale / temperature * cosines(x, text)).double().softmax(1).max(1).values


def foreign_words(candidates: Sequence[Sequence[str]], id_names: Sequence[str]) -> list[list[int]]:
    """Which words of several lists can be negatives: no class names, nothing twice; case and spaces do not matter.

    A word in several lists stays in the last one (in the paper: an adjective that is a noun too stays a noun). How many
    are left out is logged.

    Args:
        candidates: the lists.
        id_names: names of the known classes.

    Returns:
        For every list the indices of the words that stay.

    >>> foreign_words([["odd", "Red  Fox"], ["fox", "stone", "odd", "Stone "]], ["red fox"])
    [[], [0, 1, 2]]
    """
    taken = {_plain(name) for name in id_names}
    kept = []
    for words in reversed(candidates):
        stay = []
        for k, word in enumerate(words):
            if (plain := _plain(word)) not in taken:
                taken.add(plain)
                stay.append(k)
        kept.append(stay)
    given, left = sum(map(len, candidates)), sum(map(len, kept))
    if left < given:
        _log.info("%d of %d candidate words left out: class names, or given twice", given - left, given)
    return kept[::-1]


def encode_names(tower: TwoTower, names: Sequence[str], templates: str | Sequence[str]) -> Float[Tensor, "names d"]:
    """Unit text features of names put into templates, averaged over the templates; without gradients, in batches.

    Args:
        tower: the model.
        names: what takes the place of `{}`.
        templates: one or several texts with one `{}`.

    Raises:
        ValueError: if there is no name or no template, a template has no single `{}`, or a text is too long.
    """
    forms = [templates] if isinstance(templates, str) else list(templates)
    check_templates(forms)
    if not names:
        raise ValueError("at least one name is needed")
    found = []
    with torch.no_grad():
        for form in forms:
            texts = [form.replace("{}", name) for name in names]
            starts = range(0, len(texts), _TEXTS_AT_ONCE)
            found.append(torch.cat([encode_texts(tower, texts[k : k + _TEXTS_AT_ONCE]) for k in starts]))
    return found[0] if len(found) == 1 else unit_rows("the text features", torch.stack(found).sum(0))


def check_templates(templates: Sequence[str]) -> None:
    """Raise `ValueError` unless there is a template and each has one place `{}`."""
    if not templates:
        raise ValueError("at least one template is needed, a text with {} where the name goes")
    for form in templates:
        if form.count("{}") != 1:
            raise ValueError(f"template {form!r} must have {{}} once, where the name goes")


def _plain(word: str) -> str:
    return " ".join(word.lower().split())


def _ceil(value: float) -> int:
    # 0.95 · 20 and its like may come out a little above the integer.
    return max(1, math.ceil(value - 1e-9))


def _unit_chunks(candidates: Tensor, chunk: int) -> Iterator[Tensor]:
    for start in range(0, len(candidates), chunk):
        rows = candidates[start : start + chunk].double()
        norm = rows.norm(dim=1, keepdim=True)
        if bool((norm == 0).any()):
            row = start + int((norm == 0).nonzero()[0, 0])
            raise ValueError(f"row {row} of candidates has norm zero, so its cosine is undefined")
        yield rows / norm
