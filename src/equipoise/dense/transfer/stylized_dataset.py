"""A labelled data set that looks like another domain: as it is, in one style, or with a texture for every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from equipoise.core.signature import checked
from equipoise.core.types import Count, Whole
from equipoise.dense.transfer.class_aware import (
    StylizerName,
    checked_styles,
    checked_textures,
    class_aware_stylize,
    drawn,
    named_stylizer,
)
from equipoise.dense.transfer.types import Stylizer

Strategy: TypeAlias = Literal["none", "conventional", "class_aware"]


class StylizedDataset(Dataset[tuple[Tensor, Tensor]]):
    """Images with label maps, restyled by textures of a domain without labels.

    Item k is image k mod n of the data, and depends on k and the seed only: the same in every worker and every epoch.
    Several copies have different textures where there are several to draw from.

    Args:
        data: (image (C, H, W) in [0, 1], label map (H, W)) by index, with a length.
        strategy: "none" leaves the images as they are, "conventional" gives each the style of one of the whole images
            of the target domain, "class_aware" gives every class one of its own textures.
        styles: of "class_aware", class → textures (C, h, w) in [0, 1]; of "conventional", a list of whole images; of
            "none", None.
        stylizer: "moment", "monge", "pyramid", or a callable (content, style) → image. Results are cut to [0, 1].
        copies: how often every image is there.
        ignore_index: label of pixels that belong to no class; under "class_aware" they keep their pixels.
        strict: whether a class without textures is an error, see `class_aware_stylize`.
        seed: of the drawn textures.

    Raises:
        ValueError: for data without a length, styles that are not those of the strategy, or bad settings.

    >>> data = [(torch.rand(3, 8, 8), torch.arange(8).expand(8, 8) // 4)]
    >>> styles = {0: torch.full((3, 4, 4), 0.2), 1: [torch.full((3, 4, 4), grey) for grey in (0.8, 0.9)]}
    >>> dataset = StylizedDataset(data, "class_aware", styles, copies=2, seed=2)
    >>> len(dataset), [round(float(image[0, 0, 7]), 1) for image, label in dataset]
    (2, [0.9, 0.8])
    """

    @checked
    def __init__(
        self,
        data: Any,
        strategy: Strategy = "class_aware",
        styles: Mapping[int, Tensor | Sequence[Tensor]] | Sequence[Tensor] | Tensor | None = None,
        *,
        stylizer: StylizerName | Stylizer = "moment",
        copies: Count = 1,
        ignore_index: int | None = None,
        strict: bool = False,
        seed: Whole = 0,
    ) -> None:
        if not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
            raise ValueError(f"data must have a length and items by index, got {type(data).__name__}")
        self.data, self.strategy, self.copies, self.seed = data, strategy, copies, seed
        self.ignore_index, self.strict = ignore_index, strict
        self.stylizer = named_stylizer(stylizer)
        self._wholes: tuple[Tensor, ...] = ()
        self._by_class: dict[int, tuple[Tensor, ...]] = {}
        if strategy == "none":
            if styles is not None:
                raise ValueError('styles must be None under strategy="none", which leaves the images as they are')
        elif strategy == "class_aware":
            self._by_class = checked_styles(styles)
        else:
            self._wholes = checked_textures("styles", styles)

    def __len__(self) -> int:
        """Number of items: copies times that of the data."""
        return self.copies * len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) in [0, 1] and its label map (H, W), as it was.

        Raises:
            IndexError: for an index out of range.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index={index} is out of range for {len(self)} items")
        index %= len(self)
        image, label = self.data[index % len(self.data)]
        if self.strategy == "none":
            return image, label
        state = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
        if self.strategy == "conventional":
            return self.stylizer(image, drawn(self._wholes, generator)).clamp(0, 1), label
        stylized = class_aware_stylize(
            image,
            label,
            self._by_class,
            self.stylizer,
            ignore_index=self.ignore_index,
            strict=self.strict,
            generator=generator,
        )
        return stylized, label
