"""A memory of rare classes that are pasted into images without them, so that no batch lacks them.

Per image, at the end of the augmentation (code):

    store      for every tail class that is there: the image and the mask of the class; of more than S entries a random
               one is overwritten
    retrieve   of the tail classes that are not there ⌈R_S · how many⌉ at random: a random entry, resized by R_R, at a
               random place; only the pixels of the class are pasted, over image and label

The check may also be made for a whole batch, as the paper describes it (reconstructed). What is stored is a copy of the
rectangle around the class with its place in the frame, which pastes the same pixels as the whole frame and needs a few
percent of its memory. The authors keep the live tensor and paste into it later, so that their memory is damaged by its
own pastes, and they draw from Python's global generator in every worker; neither is followed.

Han et al., "AUCSeg", NeurIPS 2024; code boyuh/AUCSeg.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Integer, UInt8
from torch import Generator, Tensor
from torch.utils.data import get_worker_info

from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, Whole
from equipoise.dense.segmentation.paste import Cutout, Pasted, cut_out, paste_cutout, resized_length


class Coverage(NamedTuple):
    """How far the memory reaches.

    Attributes:
        stored: share of the tail classes that it has an entry of.
        before: share of images (of `fill_batch`: of batches) that held every tail class by themselves; NaN before any.
        after: share that held every tail class after pasting.
    """

    stored: float
    before: float
    after: float


class TailMemoryBank:
    """Recent pixels of rare classes, pasted into images or batches that lack them.

    Called with an image and its label map it is the last transform of a training pipeline. In workers of a data loader
    every worker has a memory of its own, which it loses when it ends: take `persistent_workers=True`, or call
    `fill_batch` in the training loop, where one memory serves all and can be saved with the model.

    Args:
        tail_classes: the rare classes; see `tail_classes_by_pixels`.
        memory_size: S, entries of each class.
        sample_ratio: R_S, which part of the missing classes is pasted. The authors take .05 on ADE20K, 1 on Cityscapes.
        resize_ratio: R_R, of the stored frame; .4 and 1 there.
        ignore_index: label of pixels that do not count, which is no class.
        storage: dtype to keep images in, such as float16; their own if absent. torch.uint8 is for pixels from 0 to 255
            and rounds them; pixels in [0, 1], or normalised ones, are refused.
        seed: of the own generator. In a worker it is joined with the worker's, so that workers differ.

    >>> bank = TailMemoryBank([1])
    >>> image, label = torch.zeros(3, 4, 4), torch.zeros(4, 4, dtype=torch.long)
    >>> label[0, 0] = 1
    >>> _ = bank(image, label)
    >>> (bank(image + 1, torch.zeros_like(label)).label == 1).sum()
    tensor(1)
    """

    @checked
    def __init__(
        self,
        tail_classes: Sequence[Whole],
        memory_size: Count = 5,
        sample_ratio: Fraction = 1.0,
        resize_ratio: Fraction = 1.0,
        ignore_index: int = 255,
        *,
        storage: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        if not tail_classes or len(set(tail_classes)) < len(tail_classes) or ignore_index in tail_classes:
            raise ValueError(
                f"tail_classes={tuple(tail_classes)} must be distinct classes, at least one, without {ignore_index=}"
            )
        if storage is not None and not (storage.is_floating_point or storage is torch.uint8):
            raise ValueError(f"storage={storage} must be a floating dtype or torch.uint8")
        self.tail_classes, self.memory_size = tuple(tail_classes), memory_size
        self.sample_ratio, self.resize_ratio, self.ignore_index = sample_ratio, resize_ratio, ignore_index
        self.storage, self.seed = storage, seed
        self._entries: dict[int, list[Cutout]] = {c: [] for c in self.tail_classes}
        self._seen, self._before, self._after = 0, 0, 0
        self._bytes: bool | None = None
        self._generator, self._worker = Generator().manual_seed(seed), -1

    @checked
    def __call__(
        self,
        image: Float[Tensor, "channels height width"] | UInt8[Tensor, "channels height width"],
        label: Integer[Tensor, "height width"],
    ) -> Pasted:
        """Store the tail classes of an image, and paste some of those that it lacks.

        Args:
            image: (channels, H, W), left as it is.
            label: (H, W), left as it is.

        Returns:
            Image and label map; the given ones where nothing was pasted.

        Raises:
            ValueError: if images of bytes (uint8) and of floating point take turns, or `storage` cannot hold the
                pixels.
        """
        self._store(image, label)
        present = set(label.unique().tolist())
        added: set[int] = set()
        found = Pasted(image, label)
        for c in self._drawn(present):
            found = self._paste(found.image, found.label, c)
            added.add(c)
        # A later paste may have covered an earlier one.
        self._count(present, set(found.label.unique().tolist()) if added else present)
        return found

    @checked
    def fill_batch(
        self,
        images: Float[Tensor, "batch channels height width"] | UInt8[Tensor, "batch channels height width"],
        labels: Integer[Tensor, "batch height width"],
    ) -> Pasted:
        """Store the tail classes of a batch, and paste some of those that no image of it has, each into a random image.

        Args:
            images: (B, channels, H, W), left as they are.
            labels: (B, H, W), left as they are.

        Returns:
            Images and label maps; the given ones where nothing was pasted.

        Raises:
            ValueError: as of one image.
        """
        for image, label in zip(images, labels, strict=True):
            self._store(image, label)
        present = set(labels.unique().tolist())
        chosen = self._drawn(present)
        if chosen:
            images, labels = images.clone(), labels.clone()
        for c in chosen:
            k = self._draw(len(images))
            images[k], labels[k] = self._paste(images[k], labels[k], c)
        self._count(present, set(labels.unique().tolist()) if chosen else present)
        return Pasted(images, labels)

    @property
    def nbytes(self) -> int:
        """Memory that the stored pixels take, in bytes. It is bounded: S cut-outs a class, each at most a frame."""
        return sum(each.nbytes for entries in self._entries.values() for each in entries)

    def coverage(self) -> Coverage:
        """Which share of the tail classes is stored, and of the images or batches had all of them before and after."""
        stored = sum(bool(entries) for entries in self._entries.values()) / len(self._entries)
        if not self._seen:
            return Coverage(stored, math.nan, math.nan)
        return Coverage(stored, self._before / self._seen, self._after / self._seen)

    def state_dict(self) -> dict[str, Any]:
        """Everything that it goes on from, in tensors, numbers and lists of them."""
        entries = {
            c: [{field.name: getattr(each, field.name) for field in fields(Cutout)} for each in held]
            for c, held in self._entries.items()
        }
        counts = {"seen": self._seen, "before": self._before, "after": self._after}
        return {"entries": entries, "counts": counts, "bytes": self._bytes, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            ValueError: if it is of other tail classes, or has more entries than the memory.
        """
        if set(state["entries"]) != set(self.tail_classes):
            raise ValueError(
                f"state is of the tail classes {sorted(state['entries'])}, not {sorted(self.tail_classes)}"
            )
        if any(len(held) > self.memory_size for held in state["entries"].values()):
            raise ValueError(f"state has more entries of a class than memory_size={self.memory_size}")
        self._entries = {c: [Cutout(**each) for each in state["entries"][c]] for c in self.tail_classes}
        counts = state["counts"]
        self._seen, self._before, self._after = counts["seen"], counts["before"], counts["after"]
        self._bytes = state.get("bytes")
        self._generator.set_state(state["generator"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_generator": self._generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._generator = Generator()
        self._generator.set_state(state["_generator"])

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self._rng()))

    def _rng(self) -> Generator:
        """The own generator; a worker that came by a copy of it begins one of its own."""
        info = get_worker_info()
        if info is not None and info.seed != self._worker:
            self._worker = info.seed
            self._generator = Generator().manual_seed((self.seed + info.seed) % (1 << 63))
        return self._generator

    def _store(self, image: Tensor, label: Tensor) -> None:
        of_bytes = image.dtype is torch.uint8
        if self._bytes not in (None, of_bytes):
            kinds = ("floating-point images", "images of torch.uint8")
            raise ValueError(
                f"this memory holds pixels of {kinds[not of_bytes]} and now gets {kinds[of_bytes]}, whose scale "
                "differs; convert all images alike"
            )
        self._bytes = of_bytes
        kept: Tensor | None = None
        for c in self.tail_classes:
            mask = label == c
            if not bool(mask.any()):
                continue
            kept = _kept(image, self.storage) if kept is None else kept
            entry = cut_out(kept, mask, self.resize_ratio)
            held = self._entries[c]
            if len(held) < self.memory_size:
                held.append(entry)
            else:
                held[self._draw(self.memory_size)] = entry

    def _drawn(self, present: set[int]) -> list[int]:
        """Classes to paste: of the missing ones so many by chance, less those that were never seen."""
        missing = [c for c in self.tail_classes if c not in present]
        if not missing:
            return []
        number = math.ceil(len(missing) * self.sample_ratio - 1e-9)
        order = torch.randperm(len(missing), generator=self._rng())[:number].tolist()
        return [missing[k] for k in order if self._entries[missing[k]]]

    def _paste(self, image: Tensor, label: Tensor, c: int) -> Pasted:
        entry = self._entries[c][self._draw(len(self._entries[c]))]
        height, width = (
            resized_length(length, self.resize_ratio, size)
            for length, size in zip((entry.height, entry.width), label.shape, strict=True)
        )
        left = self._draw(label.shape[1] - width + 1)
        top = self._draw(label.shape[0] - height + 1)
        return paste_cutout(image, label, entry, c, self.resize_ratio, top, left)

    def _count(self, before: set[int], after: set[int]) -> None:
        self._seen += 1
        self._before += set(self.tail_classes) <= before
        self._after += set(self.tail_classes) <= after


def _kept(image: Tensor, storage: torch.dtype | None) -> Tensor:
    """The image in the dtype to keep; bytes are rounded to, and only from what is on their scale."""
    if storage is not torch.uint8 or image.dtype is torch.uint8:
        return image if storage is None else image.to(storage)
    least, most = (float(end) for end in image.detach().aminmax())
    rounded = image.detach().round()
    if least < 0 or most > 255 or (most <= 1 and not rounded.equal(image)):
        raise ValueError(
            f"storage=torch.uint8 keeps pixels from 0 to 255, those of the image lie from {least:.3g} to {most:.3g}; "
            "take storage=torch.float16"
        )
    return rounded.to(storage)
