"""An encoder before and after: what it tells apart and what detail it sees, on the same images.

    classes   agreement of k-means clusters with classes; zero-shot accuracy where class texts are given
    detail    accuracy of a linear probe for each factor; pairs whose statements prefer their own image

An encoder that gains detail may lose classes; one number would hide that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Integer
from torch import Generator, Tensor, nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, OpenFraction, Whole
from equipoise.multimodal.representation.augmentation import PixelNorm
from equipoise.multimodal.representation.clustering import ClusteringScores, cluster_embeddings
from equipoise.multimodal.representation.factor_probe import FactorProbe
from equipoise.multimodal.representation.paired_accuracy import PairedAccuracy, pair_scores, paired_detail_accuracy


@dataclass(frozen=True)
class EncoderMeasures:
    """What `DetailBenchmark` found of one encoder.

    Attributes:
        clusters: agreement with classes; None without classes.
        zero_shot: share of images whose own class text is nearest; None without class texts.
        probes: factor → share of held-out images that it is read right of.
        majority: factor → share of the commonest value among these, which needs no encoder.
        pairs: of images and statements; None without pairs.
    """

    clusters: ClusteringScores | None = None
    zero_shot: float | None = None
    probes: Mapping[str, float] = field(default_factory=dict)
    majority: Mapping[str, float] = field(default_factory=dict)
    pairs: PairedAccuracy | None = None

    def values(self) -> dict[str, float]:
        """All measures by name, those of classes first.

        >>> EncoderMeasures(ClusteringScores(0.9, 0.8, 0.7), probes={"colour": 0.5}).values()
        {'clusters: accuracy': 0.9, 'clusters: NMI': 0.8, 'clusters: ARI': 0.7, 'probe: colour': 0.5}
        """
        found: dict[str, float] = {}
        if self.clusters is not None:
            names = ("clusters: accuracy", "clusters: NMI", "clusters: ARI")
            found.update(zip(names, self.clusters, strict=True))
        if self.zero_shot is not None:
            found["zero-shot accuracy"] = self.zero_shot
        found.update({f"probe: {name}": value for name, value in self.probes.items()})
        if self.pairs is not None:
            found["pairs"] = self.pairs.accuracy
        return found


@dataclass(frozen=True)
class EncoderComparison:
    """Two encoders on the same images.

    Attributes:
        before: of the first.
        after: of the second.
    """

    before: EncoderMeasures
    after: EncoderMeasures

    def to_markdown(self) -> str:
        """A table of measures, before and after."""
        after = self.after.values()
        rows = [
            f"| {name} | {value:.3f} | {after[name]:.3f} | {after[name] - value:+.3f} |"
            for name, value in self.before.values().items()
        ]
        return "\n".join(["| measure | before | after | change |", "|---|---|---|---|", *rows])


class DetailBenchmark:
    """Images with what is known of them, on which encoders are compared.

    Args:
        images: (n, c, h, w) in [0, 1], none of which an encoder was tuned on.
        label: (n,) classes, for clusters; left out if None.
        factors: name → (n,) value of it in each image, for linear probes.
        pairs: (p, 2, c, h, w) images that differ in a detail.
        statements: (p, 2, d) embedded statements, one true of each image; they come with `pairs`.
        category: (p,) what detail each pair is about.
        class_texts: (classes, d) embedded texts, for zero-shot accuracy; they come with `label`, which indexes them.
        pixels: how the encoders want pixels; from −1 to 1 by default.
        probed: share of images that probes are fitted on; they are scored on the others.
        seed: of that split and of k-means.
        batch_size: images at a time.

    Raises:
        ValueError: if something comes without what it belongs to, sizes disagree, or a factor does not vary among the
            images that probes are fitted on.

    >>> generator = Generator().manual_seed(0)
    >>> images, bright = torch.rand(60, 3, 4, 4, generator=generator) / 2, torch.arange(60) % 2
    >>> images[bright == 1] += 0.5
    >>> benchmark = DetailBenchmark(images, bright, {"brightness": bright})
    >>> benchmark.measure(nn.Flatten()).probes
    {'brightness': 1.0}
    """

    @checked
    def __init__(
        self,
        images: Float[Tensor, "n c h w"],
        label: Integer[Tensor, " n"] | Bool[Tensor, " n"] | None = None,
        factors: Mapping[str, Tensor] | None = None,
        *,
        pairs: Float[Tensor, "p 2 c h w"] | None = None,
        statements: Float[Tensor, "p 2 d"] | None = None,
        category: Integer[Tensor, " p"] | None = None,
        class_texts: Float[Tensor, "classes d"] | None = None,
        pixels: PixelNorm | None = None,
        probed: OpenFraction = 0.5,
        seed: Whole = 0,
        batch_size: Count = 256,
    ) -> None:
        if (pairs is None) != (statements is None):
            raise ValueError("pairs and statements belong together; give both, or neither")
        if category is not None and pairs is None:
            raise ValueError("category is that of pairs, which are missing")
        if class_texts is not None:
            if label is None:
                raise ValueError("class_texts need label, the class of each image")
            if int(label.max()) >= len(class_texts) or int(label.min()) < 0:
                raise ValueError(f"label must index the {len(class_texts)} class_texts")
        for name, value in (factors or {}).items():
            if not isinstance(value, Tensor) or value.shape != (len(images),):
                raise ValueError(f"factors[{name!r}] must be a tensor of shape ({len(images)},)")
        if factors and len(images) < 4:
            raise ValueError(f"images has {len(images)} samples; probes need at least 4")
        self.images, self.label, self.factors = images, label, dict(factors or {})
        self.pairs, self.statements, self.category, self.class_texts = pairs, statements, category, class_texts
        self.pixels, self.seed, self.batch_size = pixels or PixelNorm(), seed, batch_size
        order = torch.randperm(len(images), generator=Generator().manual_seed(seed))
        cut = min(max(2, round(probed * len(images))), len(images) - 1)
        self._fitted, self._held = order[:cut], order[cut:]
        for name, value in self.factors.items():
            if len(known := value[self._fitted.to(value.device)].unique()) < 2:
                raise ValueError(
                    f"factors[{name!r}] has the one value {known.tolist()} in the {cut} images that probes are fitted "
                    "on; give more images, or leave it out"
                )

    def measure(self, encoder: nn.Module | Callable[[Tensor], Tensor]) -> EncoderMeasures:
        """What an encoder, normalised images to embeddings (n, d), tells apart and sees.

        A module is run in evaluation mode and put back as it was.

        Raises:
            ValueError: if it gives something else than (n, d) finite numbers, or another width than texts have.
        """
        modes = {part: part.training for part in encoder.modules()} if isinstance(encoder, nn.Module) else {}
        for part in modes:
            part.training = False
        try:
            return self._measures(encoder)
        finally:
            for part, mode in modes.items():
                part.training = mode

    def compare(
        self, before: nn.Module | Callable[[Tensor], Tensor], after: nn.Module | Callable[[Tensor], Tensor]
    ) -> EncoderComparison:
        """Two encoders on these images."""
        return EncoderComparison(self.measure(before), self.measure(after))

    def _measures(self, encoder: Callable[[Tensor], Tensor]) -> EncoderMeasures:
        found = self._embed(encoder, self.images)
        probes, majority = {}, {}
        for name, factor in self.factors.items():
            probe = FactorProbe().fit(found[self._fitted], factor[self._fitted])
            held = factor[self._held]
            probes[name] = probe.score(found[self._held], held)
            majority[name] = int(held.unique(return_counts=True)[1].max()) / len(held)
        clusters = None if self.label is None else cluster_embeddings(found, self.label, seed=self.seed)
        zero_shot = None
        if self.class_texts is not None and self.label is not None:
            if found.shape[1] != self.class_texts.shape[1]:
                raise ValueError(
                    f"class_texts have {self.class_texts.shape[1]} dimensions, the encoder's embeddings "
                    f"{found.shape[1]}"
                )
            texts = self.class_texts.to(found)
            scores = nn.functional.normalize(found, dim=1) @ nn.functional.normalize(texts, dim=1).T
            zero_shot = float((scores.argmax(1) == self.label.to(scores.device)).double().mean())
        pairs = None
        if self.pairs is not None and self.statements is not None:
            both = self._embed(encoder, self.pairs.flatten(0, 1)).reshape(len(self.pairs), 2, -1)
            pairs = paired_detail_accuracy(pair_scores(both, self.statements), self.category)
        return EncoderMeasures(clusters, zero_shot, probes, majority, pairs)

    @torch.no_grad()
    def _embed(self, encoder: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        parts = []
        for part in images.split(self.batch_size):
            found = encoder(self.pixels(part))
            if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(part):
                shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"the encoder must give embeddings (n, d), of {len(part)} images it gave {shape}")
            parts.append(found.float())
        return torch.cat(parts)
