"""Negative texts made from the images that a detector meets: surely foreign images, turned into text space.

A pseudo-word w takes the place of the class's word in a prompt, and is moved until the text feature e of the prompt
points where the image does (textual inversion). Since e comes out of the text tower, it may be compared with images
like any negative text, and it has to pass the same rule; a bank keeps the best:

    w ← AdamW on 1 − cos(text(prompt with w), image),  a template drawn anew in every step
    keep e if  e·v_c < t_c·v_c  for every class c;     D(e) = mean_c (t_c·v_c − e·v_c);     the K largest D stay

Xu et al., "Mind the Way You Select Negative Texts: Pursuing the Distance Consistency in OOD Detection with VLMs", CVPR
2026, Algorithm 1. The selection rule and its letters: `openworld.prompts.negative_texts`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from equipoise.core.models.two_tower import PromptTokens, TwoTower, cosines, encode_prompts, prompt_tokens, unit_rows
from equipoise.core.signature import checked
from equipoise.core.types import MayBeEmpty, NonNegative, Positive, Whole
from equipoise.openworld.prompts.negative_texts import ClassFeatures, check_templates

INVERSION_TEMPLATES = (
    "a photo of a {}.",
    "a picture of the {}.",
    "one small {} in a photo.",
    "a large {}.",
    "a drawing of a {}.",
    "this is a {}.",
    "a dark photo of the {}.",
    "a close view of one {}.",
)
"""Templates for inversion where no others are given (the paper takes CLIP's 80 for ImageNet)."""


class BankUpdate(NamedTuple):
    """What is in a bank after new rows have come.

    Attributes:
        accepted: (a,) new rows that pass the rule, whether or not there is room for them.
        deviation: (k,) of the rows that are kept, falling.
        from_bank: (k,) whether a kept row was in the bank before.
        source_index: (k,) its index, in the bank or among the new rows.
    """

    accepted: Int[Tensor, " a"]
    deviation: Float[Tensor, " k"]
    from_bank: Bool[Tensor, " k"]
    source_index: Int[Tensor, " k"]


@checked
def update_negative_bank(
    bank_deviation: Annotated[Float[Tensor, " held"], MayBeEmpty()],
    new_similarity: Annotated[Float[Tensor, "new classes"], MayBeEmpty()],
    base_similarity: Float[Tensor, " classes"],
    capacity: Whole,
) -> BankUpdate:
    """Filter new rows by the rule and keep the largest deviations of old and new.

    Args:
        bank_deviation: (held,) deviations in the bank, in any order.
        new_similarity: (new, C) e·v_c of the new rows.
        base_similarity: (C,) t_c·v_c.
        capacity: the most rows to keep, at least 0.

    Returns:
        A `BankUpdate`. Of equal deviations the older row stays, then the earlier one.

    >>> found = update_negative_bank(
    ...     torch.tensor([0.5]), torch.tensor([[0.1, 0.1], [0.9, 0.0]]), torch.tensor([0.8, 0.8]), capacity=2
    ... )
    >>> found.accepted, found.deviation, found.from_bank
    (tensor([0]), tensor([0.7000, 0.5000]), tensor([False,  True]))
    """
    accepted = (new_similarity < base_similarity).all(1).nonzero().squeeze(1)
    fresh = (base_similarity.double() - new_similarity[accepted].double()).mean(1)
    held = len(bank_deviation)
    deviation, order = torch.sort(torch.cat([bank_deviation.double(), fresh]), descending=True, stable=True)
    deviation, order = deviation[:capacity], order[:capacity]
    from_bank = order < held
    sources = torch.cat([torch.arange(held, device=order.device), accepted])
    return BankUpdate(accepted, deviation.to(new_similarity.dtype), from_bank, sources[order])


class NegativeBank(nn.Module):
    """At most `capacity` text features that fit no known class, with the largest deviations of all that came.

    Args:
        id_text: (C, d) features of the class texts; normalised here.
        id_image_prototypes: (C, d) mean images; normalised here.
        capacity: K, the most rows.

    Raises:
        ValueError: on a bad argument, by name; if a row is zero.

    All of it travels in the state dict.

    >>> bank = NegativeBank(torch.eye(3)[:2], torch.eye(3)[:2], capacity=4)
    >>> _ = bank.add(torch.tensor([[0.0, 0.0, 2.0], [5.0, 0.0, 0.0]]))
    >>> len(bank), bank.embeddings
    (1, tensor([[0., 0., 1.]]))
    """

    prototypes: Tensor
    base_similarity: Tensor
    rows: Tensor
    deviations: Tensor

    @checked
    def __init__(self, id_text: ClassFeatures, id_image_prototypes: ClassFeatures, capacity: Whole) -> None:
        super().__init__()
        self.capacity = capacity
        text, images = unit_rows("id_text", id_text.double()), unit_rows("prototypes", id_image_prototypes.double())
        self.register_buffer("prototypes", images.float())
        self.register_buffer("base_similarity", (text * images).sum(1).float())
        # Of fixed size, so that a state dict fits another bank; rows not yet in use have deviation −∞.
        self.register_buffer("rows", torch.zeros(capacity, id_text.shape[1], device=id_text.device))
        self.register_buffer("deviations", torch.full((capacity,), -torch.inf, device=id_text.device))

    def __len__(self) -> int:
        return int(self.deviations.isfinite().sum())

    @property
    def embeddings(self) -> Float[Tensor, "held d"]:
        """(held, d) the rows, of norm 1, by falling deviation."""
        return self.rows[: len(self)]

    @property
    def deviation(self) -> Float[Tensor, " held"]:
        """(held,) their deviations."""
        return self.deviations[: len(self)]

    @torch.no_grad()
    @checked
    def add(self, embeddings: Annotated[Float[Tensor, "new d"], MayBeEmpty()]) -> BankUpdate:
        """Offer text features; those that pass the rule and are among the largest deviations stay.

        Raises:
            ValueError: on a bad argument, by name; if the width differs, or a row is zero.
        """
        width = self.prototypes.shape[1]
        if embeddings.shape[1] != width:
            raise ValueError(f"embeddings must have shape (new, {width}), got {tuple(embeddings.shape)}")
        new = unit_rows("embeddings", embeddings.float())
        found = update_negative_bank(self.deviation, cosines(new, self.prototypes), self.base_similarity, self.capacity)
        everyone = torch.cat([self.embeddings, new])
        kept = everyone[found.source_index + len(self) * (~found.from_bank)]
        self.reset()
        self.rows[: len(kept)] = kept
        self.deviations[: len(kept)] = found.deviation
        return found

    def reset(self) -> None:
        """Empty the bank."""
        self.rows.zero_()
        self.deviations.fill_(-torch.inf)


class Inversion(NamedTuple):
    """Images in text space.

    Attributes:
        embeddings: (k, d) text features, of norm 1.
        kept: (k,) the images they are of; one whose inversion was not finite is left out.
        similarity: (k,) cosine of image and text.
    """

    embeddings: Float[Tensor, "k d"]
    kept: Int[Tensor, " k"]
    similarity: Float[Tensor, " k"]


Inverter: TypeAlias = Callable[[Tensor, torch.Generator], Inversion]
"""Image features (n, d) and a source of random numbers to texts; `TextualInverter` is one."""


class TextualInverter:
    """Turns image features into text features of the same direction: a learned word in the place of the class's name.

    Args:
        tower: the model; its weights get no gradients.
        templates: texts with one `{}`; one is drawn for every image in every step.
        steps: of AdamW, at least 0.
        lr: its learning rate.
        weight_decay: its decay.
        init_std: standard deviation of the first pseudo-word.

    Raises:
        ValueError: if a template has no single `{}` or is too long for the tower.

    >>> from equipoise.integrations.clip import CLIPTower
    >>> from equipoise.data.tiny_clip import tiny_tokenizer, untrained_tiny_clip
    >>> tower = CLIPTower(untrained_tiny_clip(), tiny_tokenizer()).eval()
    >>> inverter = TextualInverter(tower, ("a photo of a {}",))
    >>> features = tower.encode_image(torch.zeros(2, 3, 16, 16)).detach()
    >>> inverter(features, torch.Generator().manual_seed(0)).embeddings.shape
    torch.Size([2, 48])
    """

    @checked
    def __init__(
        self,
        tower: TwoTower,
        templates: Sequence[str] = INVERSION_TEMPLATES,
        *,
        steps: Whole = 10,
        lr: Positive = 2e-2,
        weight_decay: NonNegative = 0.01,
        init_std: NonNegative = 0.02,
    ) -> None:
        check_templates(templates)
        self.tower = tower
        self.steps, self.lr, self.weight_decay, self.init_std = steps, lr, weight_decay, init_std
        parts = [form.split("{}") for form in templates]
        self.tokens = prompt_tokens(tower, [(before, 1, after) for before, after in parts])

    def __call__(self, image_features: Float[Tensor, "n d"], generator: torch.Generator | None = None) -> Inversion:
        """Invert images, all of them at once.

        Args:
            image_features: (n, d), of any norm.
            generator: on the CPU, for first words and templates.

        Returns:
            An `Inversion`, without graph. The features are those of the last word in the template drawn last.

        Raises:
            ValueError: if a row is zero or not finite.
        """
        # Scoring usually happens without gradients; the words need theirs.
        with torch.inference_mode(False), torch.enable_grad():
            images = unit_rows("image_features", image_features.detach().clone())
            shape = (len(images), 1, self.tower.width)
            device = self.tower.logit_scale.device
            words = (self.init_std * torch.randn(shape, generator=generator)).to(device).requires_grad_()
            optimizer = torch.optim.AdamW([words], lr=self.lr, weight_decay=self.weight_decay)
            tokens = self._draw(len(images), generator)
            for step in range(self.steps if len(images) else 0):
                # The mean over images only scales a word's gradient, to which AdamW is blind: images do not mix.
                loss = (1 - self._similarity(tokens, words, images)[1]).mean()
                (words.grad,) = torch.autograd.grad(loss, [words])
                optimizer.step()
                if step + 1 < self.steps:
                    tokens = self._draw(len(images), generator)
        with torch.no_grad():
            if not len(images):
                none = torch.arange(0, device=images.device)
                return Inversion(images, none, images.new_zeros(0))
            text, similarity = self._similarity(tokens, words, images)
            kept = text.isfinite().all(1).nonzero().squeeze(1)
            return Inversion(text[kept], kept, similarity[kept])

    def _draw(self, count: int, generator: torch.Generator | None) -> PromptTokens:
        ids, slots = self.tokens
        which = torch.randint(len(ids), (count,), generator=generator).to(ids.device)
        return PromptTokens(ids[which], slots[which])

    def _similarity(self, tokens: PromptTokens, words: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        text = encode_prompts(self.tower, tokens, words)
        return text, (text * images.to(text.dtype)).sum(1)
