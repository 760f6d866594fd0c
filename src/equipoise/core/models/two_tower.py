"""A model with one tower for images and one for text, and prompts whose words may be learned vectors.

`TwoTower` is what open-world methods need of a CLIP-like model: two encoders that meet in one space, and a way into
the text tower with word vectors in place of words. A prompt is a text with *slots*: places that hold a given vector, be
it a learned context (prompt tuning) or the pseudo-word of an image (textual inversion).

    tokens = prompt_tokens(tower, [("", 4, "red circle"), ("", 4, "blue cross")])     four slots before each name
    features = encode_prompts(tower, tokens, context)                                 context of shape (4, width)

Adapters for real models live in `equipoise.integrations`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from equipoise.core.validate import check_finite


@runtime_checkable
class TwoTower(Protocol):
    """Images and texts in one space.

    Attributes:
        logit_scale: scalar tensor, the factor (not its logarithm) on cosine similarities.
        context_length: the most tokens of a text, start and end included.
        width: of a word vector.
        start_token: id that begins a text.
        end_token: id that ends it; the text's feature is read there.
        pad_token: id that fills up.
    """

    context_length: int
    width: int
    start_token: int
    end_token: int
    pad_token: int

    @property
    def logit_scale(self) -> Tensor:
        """The factor on cosine similarities."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """Features (b, d) of images (b, channels, height, width), not normalised."""
        ...

    def word_ids(self, text: str) -> list[int]:
        """Token ids of a text without start, end and padding."""
        ...

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Word vectors (b, length, width) of ids (b, length), before positions are added."""
        ...

    def encode_text(self, ids: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Features (b, d) of ids (b, length), not normalised; `embeddings` take the place of the word vectors."""
        ...


class PromptTokens(NamedTuple):
    """Padded token ids, and which places are slots.

    Attributes:
        ids: (prompts, length) token ids; what stands in a slot does not matter.
        slots: (prompts, length) True where a given vector goes.
    """

    ids: Int[Tensor, "prompts length"]
    slots: Bool[Tensor, "prompts length"]


def prompt_tokens(tower: TwoTower, prompts: Sequence[tuple[str, int, str]]) -> PromptTokens:
    """Token ids of prompts (text before, number of slots, text after).

    Returns:
        Ids and slots, padded to the longest prompt.

    Raises:
        ValueError: if a prompt is longer than the tower reads, or there is none.
    """
    if not prompts:
        raise ValueError("at least one prompt is needed")
    rows, slots = [], []
    # A slot holds the start token, which is never the end: many tokenizers pad with the end token, and a text tower
    # that looks for the first end would read the text's feature there.
    for before, count, after in prompts:
        words_before, words_after = tower.word_ids(before), tower.word_ids(after)
        row = [tower.start_token, *words_before, *[tower.start_token] * count, *words_after, tower.end_token]
        if len(row) > tower.context_length:
            raise ValueError(
                f"the prompt {before!r} + {count} learned words + {after!r} takes {len(row)} tokens, the text tower "
                f"reads {tower.context_length}; use fewer learned words or a shorter name"
            )
        first = 1 + len(words_before)
        rows.append(row)
        slots.append(range(first, first + count))
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), tower.pad_token)
    held = torch.zeros(len(rows), length, dtype=torch.bool)
    for k, (row, places) in enumerate(zip(rows, slots, strict=True)):
        ids[k, : len(row)] = torch.tensor(row)
        held[k, list(places)] = True
    device = tower.logit_scale.device
    return PromptTokens(ids.to(device), held.to(device))


def encode_prompts(tower: TwoTower, tokens: PromptTokens, values: Float[Tensor, ...]) -> Float[Tensor, "prompts d"]:
    """Unit text features of prompts whose slots hold `values`; gradients reach `values`.

    Args:
        tower: the model.
        tokens: of `prompt_tokens`.
        values: (slots, width), the same for every prompt, or (prompts, slots, width).

    Raises:
        ValueError: if the values do not fill the slots.
    """
    prompts, width = len(tokens.ids), tower.width
    each = values.expand(prompts, *values.shape) if values.ndim == 2 else values
    per_prompt = tokens.slots.sum(1)
    if (
        each.ndim != 3
        or each.shape != (prompts, int(per_prompt[0]), width)
        or bool((per_prompt != per_prompt[0]).any())
    ):
        raise ValueError(
            f"values must have shape (slots, {width}) or (prompts, slots, {width}) for {prompts} prompts with "
            f"{per_prompt.tolist()} slots, got {tuple(values.shape)}"
        )
    embeddings = tower.embed_tokens(tokens.ids)
    filled = embeddings.masked_scatter(tokens.slots[..., None], each.to(embeddings.dtype))
    return normalize(tower.encode_text(tokens.ids, filled), dim=-1)


def encode_texts(tower: TwoTower, texts: Sequence[str]) -> Float[Tensor, "texts d"]:
    """Unit features of plain texts.

    Raises:
        ValueError: if a text is too long, or there is none.
    """
    return normalize(tower.encode_text(prompt_tokens(tower, [(text, 0, "") for text in texts]).ids), dim=-1)


def unit_rows(name: str, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows divided by their norms.

    Raises:
        ValueError: if a row is not finite or has norm zero.

    >>> unit_rows("features", torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    if features.ndim != 2:
        raise ValueError(f"{name} must have shape (n, d), got {tuple(features.shape)}")
    check_finite(name, features)
    norm = features.norm(dim=1, keepdim=True)
    if bool((norm == 0).any()):
        raise ValueError(f"row {int((norm == 0).nonzero()[0, 0])} of {name} has norm zero, so its cosine is undefined")
    return features / norm


def cosines(rows: Float[Tensor, "n d"], others: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """Inner products of all pairs of unit rows, never rounded to half precision by autocast.

    >>> cosines(torch.eye(2), torch.tensor([[0.6, 0.8]]))
    tensor([[0.6000],
            [0.8000]])
    """
    with torch.autocast(rows.device.type, enabled=False):
        return rows @ others.T
