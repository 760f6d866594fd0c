"""A gated mixture of prompts: tuned words for base classes, hand-written ones for new classes, learned gatekeepers.

A model of images and text is tuned on base classes and then meets new ones, whose names are known by then. Three sets
of prompts share the work: g with a learned context for the base names, h with a template for the new names, and K
detectors, each with a context of its own, that say which of the two an image is for. The towers are frozen, only
contexts learn, from images of base classes:

    L    = CE(z_g, y) + α mean_k CE_k + λ mean_k L_k
    CE_k = CE(z_k, y^k)  over the images that are pseudo-base for detector k
    L_k  = 1 / (|B⁺||B⁻|)  Σ_{i pseudo-base} Σ_{j pseudo-new}  φ_b(i) φ_n(j) (1 − (p_i − p_j))²,   p = max softmax(z_k)
    φ_b  = σ(softmax(z_g)_y),   φ_n = σ(softmax(z_h)_y)         soft forms of "g is right" and of "h would be right"

z_g and z_h are over all base names, z_k over the pseudo-base names of detector k. A detector without images of both
kinds in a batch is left out of it, and the means still divide by K. Partition, pair loss and score:
`openworld.prompts.gated_auc`. The measure that all of it is for: `openworld.prompts.openworld_auc`.

Hua et al., "OpenworldAUC: Towards Unified Evaluation and Optimization for Open-world Prompt Tuning", ICML 2025. The
losses were read in the authors' code; how the paper's text weighs them could not be read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from equipoise.core.curves.thresholds import Threshold, guaranteed_threshold_at_tpr, threshold_at_tpr
from equipoise.core.models.two_tower import PromptTokens, TwoTower, cosines, unit_rows
from equipoise.core.reduction import attached_zero
from equipoise.core.scores import HIGHER_IS_IN, ScoreSpec
from equipoise.core.signature import checked
from equipoise.core.types import (
    Count,
    Fraction,
    MayBeInfinite,
    NonNegative,
    OpenFraction,
    Positive,
    Scalar,
    Scores,
    Whole,
)
from equipoise.core.validate import check_classes
from equipoise.openworld.prompts.gated_auc import base_to_new_score, gated_pairwise_auc_loss, pseudo_base_new_partitions
from equipoise.openworld.prompts.negative_texts import encode_names
from equipoise.openworld.prompts.prompt_learner import FirstContext, PromptLearner, encode_contexts
from equipoise.openworld.types import SampleClasses

_WEIGHTS, _SETTINGS = "prompts.safetensors", "prompts.json"
_PROMPTS_AT_ONCE = 512


class GMoPTerms(NamedTuple):
    """The parts of the objective, not yet weighted.

    Attributes:
        base: cross-entropy of the base prompt.
        detectors: mean over detectors of their cross-entropy.
        pairs: mean over detectors of the gated pair loss.
    """

    base: Scalar
    detectors: Scalar
    pairs: Scalar


class OpenWorldOutput(NamedTuple):
    """What the three sets of prompts say, before anything is decided.

    Attributes:
        score: (n,) base-to-new score in (0, 1], higher for base, float64.
        base_logits: (n, base classes) of g.
        new_logits: (n, new classes) of h.
    """

    score: Scores
    base_logits: Float[Tensor, "n base"]
    new_logits: Float[Tensor, "n new"]


class OpenWorldPrediction(NamedTuple):
    """What images were taken for.

    Attributes:
        label: (n,) index into the base names followed by the new names.
        is_base: (n,) whether it was taken for a base class.
        score: (n,) base-to-new score.
    """

    label: Int[Tensor, " n"]
    is_base: Bool[Tensor, " n"]
    score: Scores


class _Texts(NamedTuple):
    base: Tensor
    detectors: list[Tensor]


class GMoP(nn.Module):
    """Gated mixture of prompts over any `TwoTower`, on image features: `tower.encode_image` once, then work on those.

    Args:
        tower: the model; freeze it. It belongs to the caller and is neither saved nor moved with the prompts.
        base_names: of the C base classes.
        template: of the new classes, also behind φ_n: a text with one `{}`, or several, which are averaged.
        num_detectors: K, from 2 to C.
        n_ctx: words of the base prompt.
        n_ctx_detector: words of each detector's prompt.
        lam: λ ≥ 0, weight of the pairs.
        alpha: α ≥ 0, weight of the detectors' cross-entropy; the authors take 1 for ImageNet.
        detach_gate: see `gated_pairwise_auc_loss`; the authors' code has it False.
        init: the base prompt's first context: n_ctx words of the tower's vocabulary, such as "a photo of a", whose
            embeddings it takes, or vectors (n_ctx, width), such as a context learned elsewhere; N(0, 0.02²) if absent.
        init_detector: the same of every detector's prompt, of n_ctx_detector words.
        seed: of contexts that begin at random.

    Attributes:
        base_prompt: the `PromptLearner` of g.
        detector_prompts: those of the detectors.
        partitions: a `PseudoPartition` for each detector.
        new_names: what `set_new_classes` was given.
        threshold: score from which an image is taken for base; NaN before `calibrate`.
        spec: higher scores are base.

    Raises:
        ValueError: on a bad argument, by name; if names repeat (up to case and spaces), K does not fit, or a name with
            its context is longer than the tower reads; if a first context has another length or width.

    Contexts and threshold travel in the state dict; `save` and `load` keep names and settings too. A step costs
    C + (K − 1) C prompts through the text tower, all of them held for the backward pass.

    >>> from equipoise.data.tiny_clip import tiny_tokenizer, untrained_tiny_clip
    >>> from equipoise.integrations.clip import CLIPTower
    >>> tower = CLIPTower(untrained_tiny_clip(), tiny_tokenizer()).requires_grad_(False)
    >>> names, target = ["red circle", "blue cross", "green square"], torch.arange(24) % 3
    >>> images = torch.randn(24, 48, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(48)[target]
    >>> model = GMoP(tower, names, "a photo of a {}", num_detectors=2, n_ctx_detector=4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> for batch in torch.arange(24).split(12):
    ...     optimizer.zero_grad()
    ...     model.training_loss(images[batch], target[batch]).backward()
    ...     optimizer.step()
    >>> _ = model.set_new_classes(["cyan triangle", "red cross"]).calibrate(images)
    >>> model.predict(images[:4]).label.shape
    torch.Size([4])
    """

    spec: ScoreSpec = HIGHER_IS_IN
    threshold: Tensor
    manual_base: Tensor
    manual_new: Tensor
    labels: Tensor

    @checked
    def __init__(
        self,
        tower: TwoTower,
        base_names: Sequence[str],
        template: str | Sequence[str] = "a photo of a {}.",
        *,
        num_detectors: Count = 3,
        n_ctx: Count = 4,
        n_ctx_detector: Count = 16,
        lam: NonNegative = 1.0,
        alpha: NonNegative = 0.5,
        detach_gate: bool = True,
        init: FirstContext = None,
        init_detector: FirstContext = None,
        seed: Whole = 0,
    ) -> None:
        super().__init__()
        _check_names("base_names", base_names)
        self._tower = (tower,)
        self.base_names, self.new_names = list(base_names), list[str]()
        self.template = template if isinstance(template, str) else list(template)
        self.lam, self.alpha, self.detach_gate = lam, alpha, detach_gate
        self.partitions = pseudo_base_new_partitions(len(self.base_names), num_detectors)
        generator = torch.Generator().manual_seed(seed)
        self.base_prompt = PromptLearner(tower, n_ctx, init, generator)
        self.detector_prompts = nn.ModuleList(
            PromptLearner(tower, n_ctx_detector, init_detector, generator) for _ in self.partitions
        )
        self._base_tokens = self.base_prompt.tokens(self.base_names)
        self._detector_tokens = self._tokens_for_detectors(self.base_names)
        self._new_tokens: PromptTokens | None = None
        manual = encode_names(tower, self.base_names, self.template).float()
        device = manual.device
        self.register_buffer("manual_base", manual, persistent=False)
        self.register_buffer("manual_new", manual[:0], persistent=False)
        labels = torch.stack([part.labels for part in self.partitions]).to(device)
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("threshold", torch.tensor(math.nan, dtype=torch.float64, device=device))
        self._cached: tuple[object, _Texts] | None = None

    def training_loss(self, image_features: Float[Tensor, "n d"], target: SampleClasses) -> Scalar:
        """The objective of a batch of base images; arguments as `terms`."""
        return self._total(self.terms(image_features, target))

    @checked
    def terms(self, image_features: Float[Tensor, "n d"], target: SampleClasses) -> GMoPTerms:
        """Its three parts, unweighted.

        Args:
            image_features: (n, d) of base images, of any norm.
            target: (n,) indices into the base names.

        Returns:
            Scalars with gradients to the contexts. Where no detector has images of both kinds, the last two are zero,
            attached to the graph.

        Raises:
            ValueError: on a bad argument, by name; if a row is zero.
        """
        check_classes(target, len(self.base_names))
        images = unit_rows("image_features", image_features)
        logits = self._logits(images, self.base_prompt(self._base_tokens))
        base_gate = _gate(logits, target)
        new_gate = _gate(self._logits(images, self.manual_base), target)

        texts = self._train_texts()
        own, pairs = [attached_zero(*texts)], [attached_zero(*texts)]
        for text, local in zip(texts, self.labels[:, target], strict=True):
            base, new = local >= 0, local < 0
            # Usual for small batches, so no reason to warn.
            if not bool(base.any()) or not bool(new.any()):
                continue
            z = self._logits(images, text)
            sure = z.softmax(1).max(1).values
            own.append(cross_entropy(z[base], local[base]))
            pairs.append(
                gated_pairwise_auc_loss(
                    sure[base], sure[new], base_gate[base], new_gate[new], detach_gate=self.detach_gate
                )
            )
        number = len(self.partitions)
        return GMoPTerms(
            cross_entropy(logits, target), torch.stack(own).sum() / number, torch.stack(pairs).sum() / number
        )

    @checked
    def fit(
        self,
        image_features: Float[Tensor, "n d"],
        target: SampleClasses,
        *,
        epochs: Count = 40,
        batch_size: Count = 32,
        lr: Positive = 2e-3,
        seed: Whole = 0,
    ) -> list[GMoPTerms]:
        """Train all contexts by plain SGD with a cosine to zero, one step of it per epoch; defaults are the authors'.

        The authors have an optimiser for the base prompt and one for the detectors. Without momentum that is the same.

        Args:
            image_features: (n, d) of base images.
            target: (n,) indices into the base names.
            epochs: over the images; the authors take 10 for ImageNet.
            batch_size: images per step.
            lr: learning rate of the first epoch.
            seed: of the order of the images.

        Returns:
            The mean parts of the objective for every epoch.

        Raises:
            ValueError: as `terms`.
        """
        features, contexts = image_features.detach(), list(self.parameters())
        optimizer = torch.optim.SGD(contexts, lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        generator = torch.Generator().manual_seed(seed)
        history = []
        for _ in range(epochs):
            seen = []
            for batch in torch.randperm(len(target), generator=generator).to(target.device).split(batch_size):
                terms = self.terms(features[batch], target[batch])
                optimizer.zero_grad()
                # Only the contexts, should the tower not be frozen.
                self._total(terms).backward(inputs=contexts)
                optimizer.step()
                seen.append(len(batch) * torch.stack(terms).detach())
            schedule.step()
            history.append(GMoPTerms(*(torch.stack(seen).sum(0) / len(target))))
        return history

    @checked
    def set_new_classes(self, names: Sequence[str]) -> GMoP:
        """Say which classes may be met besides the base classes; returns the model.

        Raises:
            ValueError: if there is no name, names repeat or are names of base classes, or one is too long.
        """
        _check_names("names", names, self.base_names)
        tokens = self._tokens_for_detectors(names)
        self.manual_new = encode_names(self._tower[0], names, self.template).float().to(self.manual_base.device)
        self.new_names, self._new_tokens, self._cached = list(names), tokens, None
        return self

    @torch.no_grad()
    @checked
    def forward(self, image_features: Float[Tensor, "n d"]) -> OpenWorldOutput:
        """Score and logits; text features are kept until a context or the new classes change.

        Raises:
            RuntimeError: before `set_new_classes`.
            ValueError: on a bad argument, by name; if a row is zero.
        """
        images, texts = unit_rows("image_features", image_features), self._texts()
        counts = [len(part.pseudo_base) for part in self.partitions]
        score = base_to_new_score([self._logits(images, text) for text in texts.detectors], counts)
        return OpenWorldOutput(score, self._logits(images, texts.base), self._logits(images, self.manual_new))

    def score(self, image_features: Float[Tensor, "n d"]) -> Scores:
        """The base-to-new score, higher for base; errors as `forward`."""
        return self(image_features).score

    @checked
    def calibrate(
        self, image_features: Float[Tensor, "n d"], recall: Fraction = 0.95, confidence: OpenFraction | None = None
    ) -> Threshold:
        """Set the threshold so that the wanted share of base images is taken for base.

        Args:
            image_features: (n, d) of base images that were not trained on.
            recall: in (0, 1].
            confidence: if given, the probability, over the draw of these images, that the share holds for new ones.

        Returns:
            The threshold; −∞ where there are too few images for the promise, and everything is taken for base.

        Raises:
            RuntimeError: before `set_new_classes`.
            ValueError: as `forward`.
        """
        scores = self.score(image_features)
        cut = (
            threshold_at_tpr(scores, recall)
            if confidence is None
            else guaranteed_threshold_at_tpr(scores, recall, confidence)
        )
        self.threshold.fill_(cut.value)
        return cut

    @checked
    def predict(
        self, image_features: Float[Tensor, "n d"], threshold: Annotated[float, MayBeInfinite()] | None = None
    ) -> OpenWorldPrediction:
        """Decide: g's class where the score reaches the threshold, h's class elsewhere.

        Args:
            image_features: (n, d) of images from anywhere.
            threshold: in place of the calibrated one.

        Raises:
            RuntimeError: before `set_new_classes`, or without a threshold.
            ValueError: as `forward`.
        """
        cut = float(self.threshold) if threshold is None else threshold
        if math.isnan(cut):
            raise RuntimeError("the threshold is not set; call calibrate(held-out base images) or give one")
        score, base_logits, new_logits = self(image_features)
        is_base = score >= cut
        label = torch.where(is_base, base_logits.argmax(1), len(self.base_names) + new_logits.argmax(1))
        return OpenWorldPrediction(label, is_base, score)

    def save(self, folder: str | Path) -> Path:
        """Write contexts and threshold as safetensors, names and settings as JSON; returns the folder.

        Raises:
            ImportError: if safetensors is not installed.
        """
        save_file = _safetensors().save_file
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / _WEIGHTS)
        settings = {
            "base_names": self.base_names,
            "new_names": self.new_names,
            "template": self.template,
            "num_detectors": len(self.partitions),
            "n_ctx": self.base_prompt.n_ctx,
            "n_ctx_detector": self._detectors()[0].n_ctx,
            "lam": self.lam,
            "alpha": self.alpha,
            "detach_gate": self.detach_gate,
        }
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path, tower: TwoTower) -> GMoP:
        """Read what `save` wrote, over the tower it was trained with.

        Raises:
            ImportError: if safetensors is not installed.
            OSError: if there is nothing to read.
            RuntimeError: if the tower has another width.
        """
        settings = json.loads((Path(folder) / _SETTINGS).read_text(encoding="utf-8"))
        new_names = settings.pop("new_names")
        model = cls(tower, **settings)
        model.load_state_dict(_safetensors().load_file(Path(folder) / _WEIGHTS))
        return model.set_new_classes(new_names) if new_names else model

    def extra_repr(self) -> str:
        """Settings, for `print`."""
        return f"classes={len(self.base_names)}, lam={self.lam}, alpha={self.alpha}, detach_gate={self.detach_gate}"

    def _total(self, terms: GMoPTerms) -> Tensor:
        return terms.base + self.alpha * terms.detectors + self.lam * terms.pairs

    def _detectors(self) -> list[PromptLearner]:
        return [prompt for prompt in self.detector_prompts if isinstance(prompt, PromptLearner)]

    def _tokens_for_detectors(self, names: Sequence[str]) -> PromptTokens:
        # All have the same number of words, so the tokens of one serve all.
        return self._detectors()[0].tokens(names)

    def _logits(self, images: Tensor, text: Tensor) -> Tensor:
        return cosines(self._tower[0].logit_scale.detach().to(images.dtype) * images, text.to(images.dtype))

    def _train_texts(self) -> tuple[Tensor, ...]:
        """Of every detector its pseudo-base texts, with gradients, all in one pass through the tower."""
        chosen = [part.pseudo_base.to(self._detector_tokens.ids.device) for part in self.partitions]
        rows = torch.cat(chosen)
        tokens = PromptTokens(self._detector_tokens.ids[rows], self._detector_tokens.slots[rows])
        contexts = [
            prompt.context.expand(len(classes), -1, -1)
            for prompt, classes in zip(self._detectors(), chosen, strict=True)
        ]
        return encode_contexts(self._tower[0], tokens, torch.cat(contexts)).split([len(classes) for classes in chosen])

    def _texts(self) -> _Texts:
        """Base texts of g, and all texts of every detector, pseudo-base first; kept while no context changes."""
        if self._new_tokens is None:
            raise RuntimeError("the new classes are not known yet; call set_new_classes(names) first")
        state = [(id(context), context._version, context.device) for context in self.parameters()]
        if self._cached is None or self._cached[0] != state:
            everyone = []
            for prompt, part in zip(self._detectors(), self.partitions, strict=True):
                base = _in_chunks(prompt, self._detector_tokens)
                new = _in_chunks(prompt, self._new_tokens)
                everyone.append(torch.cat([base[part.pseudo_base], base[part.pseudo_new], new]))
            self._cached = state, _Texts(_in_chunks(self.base_prompt, self._base_tokens), everyone)
        return self._cached[1]


def _gate(logits: Tensor, target: Tensor) -> Tensor:
    return logits.softmax(1).gather(1, target[:, None]).squeeze(1).sigmoid()


def _in_chunks(prompt: PromptLearner, tokens: PromptTokens) -> Tensor:
    chunks = zip(*(part.split(_PROMPTS_AT_ONCE) for part in tokens), strict=True)
    return torch.cat([prompt(PromptTokens(*chunk)) for chunk in chunks])


def _check_names(what: str, names: Sequence[str], taken: Sequence[str] = ()) -> None:
    if not names:
        raise ValueError(f"{what} is empty; at least one name is needed")
    seen = {_plain(name): name for name in taken}
    for name in names:
        if _plain(name) in seen:
            raise ValueError(
                f"{what} holds {name!r}, but there is {seen[_plain(name)]!r} already; every class needs its own"
            )
        seen[_plain(name)] = name


def _plain(name: str) -> str:
    return " ".join(name.lower().split())


def _safetensors() -> ModuleType:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("saving prompts needs safetensors: pip install 'equipoise[training]'") from error
    return safetensors.torch
