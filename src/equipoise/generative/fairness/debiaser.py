"""Move a few neutral prompts of a text encoder until they are as near to one attribute value as to another.

    L = mean_c [ l_o(c) + λ_q l_q(c) ] + λ_keep mean_b d(T(b), T_0(b))        c: concepts,  b: unrelated texts

with the equalized-odds and equalized-quality losses of `balance`, on pictures that the model itself draws for prompts
that name a value. Gradients reach a low-rank change of the text encoder only; the generator is never differentiated.
Without the last term, equal distances are reached most easily by moving a text away from all pictures.

Source: LightFair, NeurIPS 2025. Reconstructed: no code is public; the losses, the settings and the training loop are
inferred from the abstract and the overview figure, and the term that keeps unrelated texts is added here.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from equipoise.core.models.generators import TextToImage
from equipoise.core.models.two_tower import encode_texts, prompt_tokens
from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Positive, Whole
from equipoise.generative.fairness.adapter_file import FairAdapter, load_fair_adapter, write_adapter
from equipoise.generative.fairness.balance import (
    equalized_odds_loss,
    log_shares,
    pair_spread,
    radii_of_means,
    unit,
)
from equipoise.generative.fairness.bias import text_skew
from equipoise.generative.fairness.prompts import TEMPLATES, UNRELATED, FairPrompts
from equipoise.generative.fairness.references import Maps, Pixels, References, draw_references
from equipoise.generative.fairness.text_lora import lora_pairs, merged, put_lora, text_layers


class FairStep(NamedTuple):
    """The terms of the loss at one step of training.

    Attributes:
        loss: the sum that was minimised.
        odds: mean l_o.
        quality: mean l_q.
        keep: mean cosine distance of unrelated texts to where they were.
    """

    loss: float
    odds: float
    quality: float
    keep: float


@dataclass(frozen=True)
class ConceptReport:
    """What the text side says of a concept; every pair is (original, debiased).

    Attributes:
        concept: that it is about.
        trained: whether it was among the balanced ones.
        skew: shares that its neutral prompts give the values, means over templates.
        odds: l_o, 0 where the (shifted) distances are equal.
        faithful: share of the prompts naming a value that are nearest to the pictures of this value.
        moved: mean cosine distance of the prompts naming a value to where they were.
    """

    concept: str
    trained: bool
    skew: tuple[tuple[float, ...], tuple[float, ...]]
    odds: tuple[float, float]
    faithful: tuple[float, float]
    moved: float


class LightFairDebiaser:
    """A low-rank adapter of a text encoder, so that neutral prompts show every attribute value as often.

    Args:
        tower: a `TwoTower` module, whose text side is that of the generator. It is copied: the copy is changed.
        generator: draws pictures of prompts with the original text encoder.
        concepts: what neutral prompts are about, such as ["doctor", "nurse"]; all are balanced by one adapter.
        attributes: values that stand before a concept, such as ["female", "male"], or attribute → values, of which all
            combinations are balanced.
        templates: texts with one {} for the concept.
        keep_texts: unrelated texts, which stay where they are.
        target: shares of the values, in their order, greater than 0 and of sum 1; equal if absent.
        rank: of the change of each layer.
        scale: the change is multiplied by scale / rank; twice the rank if absent.
        lambda_q: weight of equalized quality.
        pull: weight in it of the mean distance to the pictures.
        keep: weight of the term that keeps unrelated texts.
        steps: of training.
        learning_rate: of Adam; 2e-3 suits small encoders, 1e-4 large ones.
        concepts_per_step: drawn at each step where there are more.
        layers: names of linear layers to change; all that read token states if absent.
        pixels: pictures in [0, 1] to what the image tower reads; as they are if absent.
        foreground: maps of what pictures are of, see `weigh_foreground`; the whole picture counts if absent.
        batch_size: pictures that are drawn at once.
        seed: of the adapter, the concepts of each step and the pictures.

    Raises:
        ValueError: if a setting is out of range, there are fewer than two values, or a concept or template names one.

    >>> from equipoise.data.shapes import RenderedTextToImage
    >>> from equipoise.data.tiny_clip import tiny_tokenizer, untrained_tiny_clip
    >>> from equipoise.integrations.clip import CLIPTower
    >>> tower, painter = CLIPTower(untrained_tiny_clip(), tiny_tokenizer()), RenderedTextToImage()
    >>> debiaser = LightFairDebiaser(tower, painter, ["dax"], ["red", "blue"], pixels=lambda x: 2 * x - 1, steps=5)
    >>> len(debiaser.collect_references(4).embeddings[0])
    2
    >>> history = debiaser.fit()
    >>> history[-1].loss < history[0].loss
    True
    """

    @checked
    def __init__(
        self,
        tower: nn.Module,
        generator: TextToImage,
        concepts: Sequence[str],
        attributes: Any,
        *,
        templates: Sequence[str] = TEMPLATES,
        keep_texts: Sequence[str] = UNRELATED,
        target: Sequence[float] | None = None,
        rank: Count = 4,
        scale: Positive | None = None,
        lambda_q: NonNegative = 0.5,
        pull: NonNegative = 0.1,
        keep: NonNegative = 1.0,
        steps: Count = 100,
        learning_rate: Positive = 2e-3,
        concepts_per_step: Count = 8,
        layers: Sequence[str] | None = None,
        pixels: Pixels | None = None,
        foreground: Maps | None = None,
        batch_size: Count = 32,
        seed: Whole = 0,
    ) -> None:
        self.prompts = FairPrompts(tuple(concepts), attributes, tuple(templates))
        if target is not None:
            log_shares(target, len(self.prompts.values))
        if keep > 0 and not keep_texts:
            raise ValueError("keep_texts is empty; name some unrelated texts, or set keep=0")
        self.keep_texts, self.target = tuple(keep_texts), target
        self.tower, self.generator, self.pixels, self.foreground = tower, generator, pixels, foreground
        self.rank, self.scale = rank, 2.0 * rank if scale is None else scale
        self.lambda_q, self.pull, self.keep = lambda_q, pull, keep
        self.steps, self.learning_rate, self.concepts_per_step = steps, learning_rate, concepts_per_step
        self.batch_size, self.seed = batch_size, seed
        self._references: References | None = None
        # Layers that drop values would make the same text differ from call to call.
        self._changed = copy.deepcopy(tower).eval()
        first = self.prompts.neutral(self.prompts.concepts[0])[:1]
        found = text_layers(self._changed, lambda: self._read(self._changed, first)) if layers is None else layers
        put_lora(self._changed, list(found), rank, self.scale, seed)

    @property
    def references(self) -> References:
        """The pictures that values are measured by.

        Raises:
            RuntimeError: before `collect_references`.
        """
        if self._references is None:
            raise RuntimeError("there are no references yet; call collect_references, or set `references`")
        return self._references

    @references.setter
    def references(self, references: References) -> None:
        if references.concepts != self.prompts.concepts or references.values != self.prompts.values:
            raise ValueError("the references are of other concepts or values, or in another order")
        width = self._read(self.tower, self.prompts.neutral(self.prompts.concepts[0])[:1]).shape[-1]
        if references.centers.shape[-1] != width:
            raise ValueError(f"the references are of width {references.centers.shape[-1]}, texts of {width}")
        self._references = references

    def collect_references(self, n: int = 48) -> References:
        """Draw n pictures for every concept and value with the original model, and keep their embeddings.

        Raises:
            ValueError: if n is below 1, or as `attribute_centers`.
        """
        self.references = self._drawn(self.prompts, n)
        return self.references

    @property
    def debiased_encoder(self) -> nn.Module:
        """The tower with its changed text side; the original before `fit`. `merged_encoder` has plain layers."""
        return self._changed

    def merged_encoder(self) -> nn.Module:
        """A copy of the tower whose layers have the change in their weights: nothing is slower than before."""
        return merged(copy.deepcopy(self._changed))

    def fit(self) -> list[FairStep]:
        """Train the adapter.

        Returns:
            The terms of the loss, step by step.

        Raises:
            RuntimeError: before `collect_references`.

        Warns:
            UserWarning: if a prompt that names a value is afterwards nearest to the pictures of another one.
        """
        held, prompts = self.references, self.prompts
        neutral = [text for concept in prompts.concepts for text in prompts.neutral(concept)]
        named = [text for c in prompts.concepts for value in prompts.values for text in prompts.naming(c, value)]
        texts = [*neutral, *named, *(self.keep_texts if self.keep > 0 else ())]
        ids = prompt_tokens(self._changed, [(text, 0, "") for text in texts]).ids  # type: ignore[arg-type]
        with torch.no_grad():
            before = self._read(self.tower, texts[len(neutral) + len(named) :]) if self.keep > 0 else None
        device = self._device
        centers, means = held.centers.to(device), held.means.to(device)
        count, forms, values = len(prompts.concepts), len(prompts.templates), len(prompts.values)
        rows = torch.arange(len(texts), device=device)
        of_neutral = rows[: len(neutral)].view(count, forms)
        of_named = rows[len(neutral) :][: len(named)].view(count, values, forms)
        of_kept = rows[len(neutral) + len(named) :]
        chosen_by = torch.Generator().manual_seed(self.seed)
        trained = [side for pair in lora_pairs(self._changed).values() for side in pair]
        optimizer = torch.optim.Adam(trained, lr=self.learning_rate)
        history = []
        for _ in range(self.steps):
            chosen = torch.randperm(count, generator=chosen_by)[: self.concepts_per_step].sort().values.to(device)
            parts = (of_neutral[chosen].flatten(), of_named[chosen].flatten(), of_kept)
            read = unit("texts", self._changed.encode_text(ids[torch.cat(parts)]).float())  # type: ignore[operator]
            at, naming, kept = read.split([len(part) for part in parts])
            odds = equalized_odds_loss(
                at, centers[chosen].repeat_interleave(forms, 0), self.target, logit_scale=self._logit_scale
            )
            radii = radii_of_means(naming.view(len(chosen), values, forms, -1), means[chosen][:, :, None]).mT
            quality = (pair_spread(radii) + self.pull * radii.mean(-1)).mean()
            stray = odds.new_zeros(()) if before is None else (1 - (kept * before).sum(-1)).mean()
            loss = odds + self.lambda_q * quality + self.keep * stray
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(FairStep(*(float(each.detach()) for each in (loss, odds, quality, stray))))
        self._warn_of_unfaithful()
        return history

    @torch.no_grad()
    def report(self, concepts: Sequence[str] = (), n: int = 48) -> list[ConceptReport]:
        """What the text side says of the balanced concepts and of others, before and after.

        Args:
            concepts: further ones, which the adapter has not seen; pictures are drawn for them.
            n: pictures of each value of these.

        Raises:
            RuntimeError: before `collect_references`.
            ValueError: if a concept names a value.
        """
        found = [self._reported(concept, self.references, trained=True) for concept in self.prompts.concepts]
        if concepts:
            others = FairPrompts(tuple(concepts), self.prompts.attributes, self.prompts.templates)
            drawn = self._drawn(others, n)
            found += [self._reported(concept, drawn, trained=False) for concept in others.concepts]
        return found

    def save_adapter(self, folder: str | Path) -> Path:
        """Write the adapter as `adapter.safetensors` and `adapter.json`; `load_fair_adapter` reads it elsewhere.

        Raises:
            ImportError: if safetensors is not installed.
        """
        names = ("lambda_q", "pull", "keep", "steps", "learning_rate", "seed")
        attributes = self.prompts.attributes
        adapter = FairAdapter(
            self.rank,
            self.scale,
            tuple(self.prompts.concepts),
            attributes if isinstance(attributes, Mapping) else tuple(attributes),
            tuple(self.prompts.templates),
            None if self.target is None else tuple(self.target),
            {name: getattr(self, name) for name in names},
        )
        return write_adapter(self._changed, adapter, folder)

    def load_adapter(self, folder: str | Path) -> FairAdapter:
        """Take the adapter of a folder in place of the own one.

        Raises:
            ImportError: if safetensors is not installed.
            OSError: if there is nothing to read.
            ValueError: if it does not fit the tower.
        """
        fresh = copy.deepcopy(self.tower).eval()
        adapter = load_fair_adapter(fresh, folder)
        self._changed, self.rank, self.scale = fresh, adapter.rank, adapter.scale
        return adapter

    @property
    def _logit_scale(self) -> float:
        return float(self.tower.logit_scale.detach())  # type: ignore[operator]

    @property
    def _device(self) -> torch.device:
        scale: Tensor = self.tower.logit_scale  # type: ignore[assignment]
        return scale.device

    @staticmethod
    def _read(tower: nn.Module, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
        return unit("the embeddings of texts", encode_texts(tower, texts).float())  # type: ignore[arg-type]

    def _drawn(self, prompts: FairPrompts, n: int) -> References:
        return draw_references(
            self.tower,  # type: ignore[arg-type]
            self.generator,
            prompts,
            n,
            pixels=self.pixels,
            foreground=self.foreground,
            seed=self.seed,
            batch_size=self.batch_size,
        )

    def _reported(self, concept: str, held: References, *, trained: bool) -> ConceptReport:
        centers = held.centers[held.at(concept)].to(self._device)
        neutral = self.prompts.neutral(concept)
        row = centers.expand(len(neutral), *centers.shape)
        skew, odds, faithful, named = [], [], [], []
        for tower in (self.tower, self._changed):
            texts = self._read(tower, neutral)
            skew.append(tuple(text_skew(texts, row, self._logit_scale).mean(0).tolist()))
            odds.append(float(equalized_odds_loss(texts, row, self.target, logit_scale=self._logit_scale)))
            named.append(self._named(tower, concept))
            faithful.append(float((_nearest(named[-1], centers)).double().mean()))
        moved = float((1 - (named[0] * named[1]).sum(-1)).mean())
        return ConceptReport(
            concept, trained, (skew[0], skew[1]), (odds[0], odds[1]), (faithful[0], faithful[1]), moved
        )

    def _named(self, tower: nn.Module, concept: str) -> Float[Tensor, "attributes templates d"]:
        values = self.prompts.values
        texts = [text for value in values for text in self.prompts.naming(concept, value)]
        return self._read(tower, texts).unflatten(0, (len(values), -1))

    @torch.no_grad()
    def _warn_of_unfaithful(self) -> None:
        lost = []
        for concept, centers in zip(self.prompts.concepts, self.references.centers, strict=True):
            here = centers.to(self._device)
            before, after = (_nearest(self._named(t, concept), here) for t in (self.tower, self._changed))
            for k in (before & ~after).any(1).nonzero()[:, 0].tolist():
                lost.append(f"{self.prompts.values[k]} {concept}")
        if lost:
            warnings.warn(
                f"prompts that name a value are no longer nearest to its pictures: {', '.join(lost)}; raise lambda_q "
                "or keep, or train for fewer steps",
                stacklevel=3,
            )


def _nearest(named: Float[Tensor, "attributes templates d"], centers: Float[Tensor, "attributes d"]) -> Tensor:
    """(A, templates) whether texts that name value k are nearest to its centre."""
    cosines = (named[:, :, None] * centers).sum(-1)
    return cosines.argmax(-1) == torch.arange(len(centers), device=centers.device)[:, None]
