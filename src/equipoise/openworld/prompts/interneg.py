"""InterNeg: is an image of one of these classes? Judged by class texts, chosen negative texts, and what came before.

    detector = InterNeg(CLIPTower.from_pretrained("openai/clip-vit-base-patch16"))
    detector.fit(["tench", "goldfish", ...], images, target, {"The nice {}.": nouns, "This is a {} photo.": adjectives})
    scores = detector(batch)                  log-odds, higher for known; images that score low make new negatives

Negatives are chosen by their distance to images of the classes (`negative_texts`). At test time every batch is scored,
its images below a threshold are turned into text features that join the negatives (`negative_bank`), and the batch is
scored again. So a score depends on what came before it, and the first images of a stream are judged with less knowledge
than the last: `frozen` scores without learning, `reset` forgets the stream.

Xu et al., "Mind the Way You Select Negative Texts: Pursuing the Distance Consistency in OOD Detection with VLMs", CVPR
2026. Defaults are those of the authors' code for ImageNet and CLIP ViT-B/16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from equipoise.core.models.two_tower import TwoTower, cosines, unit_rows
from equipoise.core.scores import HIGHER_IS_IN, ScoreSpec
from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, Positive, Probability, Scores, Whole
from equipoise.openworld.prompts.negative_bank import Inverter, NegativeBank, TextualInverter
from equipoise.openworld.prompts.negative_texts import (
    Candidates,
    ClassFeatures,
    TextSelection,
    class_image_prototypes,
    encode_names,
    foreign_words,
    negative_log_odds,
    select_negative_texts,
)
from equipoise.openworld.types import SampleClasses

TEMPLATE = "The nice {}."


class InterNeg(nn.Module):
    """A detector of foreign images over a model of images and text, or over features that were taken before.

    Args:
        tower: the model; None to work with `fit_features` and `score_features` only. It belongs to the caller: it is
            neither moved nor saved with the detector.
        m: how many negative texts to choose.
        groups: in how many groups they are split for the score. The paper takes 5, and 1 where the foreign classes are
            near the known ones.
        capacity: the most texts made from images; 0 for none.
        threshold: images are turned into texts whose share S of the softmax, in [0, 1], is below it.
        inverter: how; by default a `TextualInverter` of the tower. Without tower and inverter none are made.
        max_inversions: the most images of a batch that are turned into texts, those of the lowest scores; all if None.
        scale: factor on cosines; by default the tower's own, or 100.
        seed: of the split into groups and of the inversions.

    Attributes:
        spec: higher is known.
        frozen: True to score without learning from the stream.
        selection: what `fit` chose, with indices into all candidate words in their order, list after list.
        bank: the texts made from images.
        failed_inversions: how many were dropped because they were not finite.

    A fitted detector travels in its state dict, with the bank and the place in the stream; load it into a detector of
    the same settings.

    >>> detector = InterNeg(None, m=1)
    >>> classes = torch.eye(3)[:2]
    >>> _ = detector.fit_features(classes, classes, torch.eye(3)[2:])
    >>> detector.score_features(torch.tensor([[1.0, 0.0, 0.0], [0.1, 0.0, 0.9]])) > 0
    tensor([ True, False])
    """

    spec: ScoreSpec = HIGHER_IS_IN
    id_text: Tensor
    negatives: Tensor
    scale: Tensor
    batches_seen: Tensor

    @checked
    def __init__(
        self,
        tower: TwoTower | None,
        m: Count = 2000,
        *,
        groups: Count = 1,
        capacity: Whole = 2000,
        threshold: Probability = 0.35,
        inverter: Inverter | None = None,
        max_inversions: Count | None = None,
        scale: Positive | None = None,
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        if scale is None:
            scale = 100.0 if tower is None else float(tower.logit_scale.detach())
        # In a tuple, so that the model is no part of this one.
        self._tower = (tower,)
        self.m, self.groups, self.capacity, self.threshold = m, groups, capacity, threshold
        if inverter is None and tower is not None and capacity:
            inverter = TextualInverter(tower)
        self.inverter = inverter
        self.max_inversions = max_inversions
        self.seed = seed
        self.frozen = False
        self.failed_inversions = 0
        self.selection: TextSelection | None = None
        self.bank: NegativeBank | None = None
        self.register_buffer("id_text", torch.zeros(0, 0))
        self.register_buffer("negatives", torch.zeros(0, 0))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.long))

    @checked
    def fit(
        self,
        id_names: Sequence[str],
        images: Tensor | Iterable[Tensor],
        target: SampleClasses,
        candidates: Sequence[str] | Mapping[str, Sequence[str]],
        *,
        template: str | Sequence[str] = TEMPLATE,
        min_share: Fraction = 1.0,
    ) -> InterNeg:
        """Choose negatives from words, by a few images of the classes.

        Args:
            id_names: of the C known classes.
            images: of known classes, as the tower takes them, or batches of them; 16 per class in the paper.
            target: (n,) their classes.
            candidates: words, or template → words, each list with its share of the negatives. Words that are names of
                classes are left out, as are repetitions; their number is logged.
            template: for the class names and a single list of words; several are averaged.
            min_share: see `select_negative_texts`.

        Returns:
            The detector itself, with an empty bank.

        Raises:
            ValueError: on a bad argument, by name; if a class has no image, or no candidate passes the rule.
            RuntimeError: if the detector has no tower.
        """
        tower = self._model()
        pools = list(candidates.items()) if isinstance(candidates, Mapping) else [(template, candidates)]
        kept = foreign_words([words for _, words in pools], id_names)
        if not any(kept):
            raise ValueError("candidates holds no word that is not the name of a class")
        features, numbers, positions, before = [], [], [], 0
        for number, ((form, words), stay) in enumerate(zip(pools, kept, strict=True)):
            if stay:
                features.append(encode_names(tower, [words[k] for k in stay], form))
                numbers += [number] * len(stay)
                positions += [before + k for k in stay]
            before += len(words)
        batches = [images] if isinstance(images, Tensor) else images
        image_features = torch.cat([self._encode(batch) for batch in batches])
        device = image_features.device
        self.fit_features(
            encode_names(tower, id_names, template),
            class_image_prototypes(image_features, target.to(device), len(id_names)),
            torch.cat(features),
            pools=torch.tensor(numbers, device=device),
            min_share=min_share,
        )
        found = self.selection
        if found is not None:
            self.selection = found._replace(indices=torch.tensor(positions, device=device)[found.indices])
        return self

    @torch.no_grad()
    def fit_features(
        self,
        id_text: ClassFeatures,
        id_image_prototypes: ClassFeatures,
        candidates: Candidates,
        *,
        pools: Int[Tensor, " candidates"] | None = None,
        min_share: Fraction = 1.0,
    ) -> InterNeg:
        """Choose negatives from features; arguments and errors as `select_negative_texts`."""
        found = select_negative_texts(
            id_text, id_image_prototypes, candidates, self.m, pools=pools, min_share=min_share
        )
        self.bank = NegativeBank(id_text, id_image_prototypes, self.capacity)
        self.id_text = unit_rows("id_text", id_text.float())
        self.negatives = unit_rows("candidates", candidates[found.indices].float())
        self.selection = found
        self.scale, self.batches_seen = (x.to(id_text.device) for x in (self.scale, self.batches_seen))
        self.reset()
        return self

    def forward(self, images: Tensor) -> Scores:
        """`score_features` of images."""
        return self.score_features(self._encode(images))

    @torch.no_grad()
    @checked
    def score_features(self, features: Float[Tensor, "n d"]) -> Scores:
        """Score a batch of the stream and, unless `frozen`, learn from it.

        Args:
            features: (n, d) image features, normalised here.

        Returns:
            (n,) log S / (1 − S), higher for known images, after the bank has learned from this batch; its sigmoid is
            the published S, in which the surest images tie. (The paper turns images with S ≤ threshold into texts, its
            code those below; so does this.)

        Raises:
            RuntimeError: before `fit`.
            ValueError: on a bad argument, by name; if the width differs, or a row is zero.
        """
        bank = self._fitted()
        features = unit_rows("features", features.float())
        scores = self._score(features, bank)
        if self.frozen or self.inverter is None or not self.capacity:
            return scores
        draw = np.random.SeedSequence((self.seed, int(self.batches_seen))).generate_state(1)
        self.batches_seen += 1
        order = torch.sort(scores, stable=True).indices
        unsure = order[scores[order] < self._least_odds][: self.max_inversions]
        if not len(unsure):
            return scores
        inverted = self.inverter(features[unsure], torch.Generator().manual_seed(int(draw[0])))
        self.failed_inversions += len(unsure) - len(inverted.kept)
        update = bank.add(inverted.embeddings.to(features.device))
        # With nothing new in the bank the scores stand.
        return scores if bool(update.from_bank.all()) else self._score(features, bank)

    def predict(self, images: Tensor) -> Int[Tensor, " n"]:
        """The class of every image among the known ones, whatever its score.

        Raises:
            RuntimeError: before `fit`, or without tower.
        """
        self._fitted()
        return cosines(self._encode(images).float(), self.id_text).argmax(1)

    def reset(self) -> None:
        """Forget the stream: an empty bank, and random numbers from the start."""
        self._fitted().reset()
        self.batches_seen.zero_()
        self.failed_inversions = 0

    def _score(self, features: Tensor, bank: NegativeBank) -> Tensor:
        negatives = torch.cat([self.negatives, bank.embeddings])
        order = None
        if self.groups > 1:
            # Always the same for so many negatives, whatever the batch.
            generator = torch.Generator().manual_seed(self.seed)
            order = torch.randperm(len(negatives), generator=generator).to(negatives.device)
        return negative_log_odds(
            features, self.id_text, negatives, scale=float(self.scale), groups=self.groups, permutation=order
        )

    @property
    def _least_odds(self) -> float:
        """The threshold on the score; −∞ where no image is turned into a text, ∞ where all are."""
        return float(torch.tensor(self.threshold, dtype=torch.float64).logit())

    @torch.no_grad()
    def _encode(self, images: Tensor) -> Tensor:
        return self._model().encode_image(images)

    def _model(self) -> TwoTower:
        (tower,) = self._tower
        if tower is None:
            raise RuntimeError("this detector has no tower; give features to fit_features and score_features")
        return tower

    def _fitted(self) -> NegativeBank:
        if self.bank is None:
            raise RuntimeError("the detector has no negative texts yet; call fit(...) or fit_features(...) first")
        return self.bank

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # What is loaded decides how many classes, negatives and dimensions there are.
        device = self.scale.device
        for name in ("id_text", "negatives"):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=device))
        if prefix + "bank.prototypes" in state_dict:
            like = torch.ones_like(state_dict[prefix + "bank.prototypes"], device=device)
            self.bank, self.selection, self.failed_inversions = NegativeBank(like, like, self.capacity), None, 0
        super()._load_from_state_dict(state_dict, prefix, *rest)
