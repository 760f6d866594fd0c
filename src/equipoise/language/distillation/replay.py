"""Student-generated prefixes kept and used again, the more the worse the student does on held-out data (DistiLLM).

A threshold th starts low and grows by 0.1, at most to 1, whenever the held-out loss is by `loss_eps` above the last one
that made it grow. At each batch r ~ U(0, 1) is drawn, and with th_now from the schedule

    r < th_now, or r < th while the buffer is not full: generate, keep, train on it
    else r < th:                                        train on texts of the buffer
    else:                                               train on the data

    th_now = th (1 − step/total) "decreasing",   th/2 "constant",   th step/total "increasing"

Source: Ko et al., "DistiLLM", ICML 2024, in the form of the ABKD authors' code.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Probability, Whole
from equipoise.language.distillation.data import Batch, TokenRow, collate_tokens
from equipoise.language.distillation.prefixes import Moment, Sampling, draw_seed, generate_batch

Schedule: TypeAlias = Literal["decreasing", "constant", "increasing"]
Origin: TypeAlias = Literal["student", "buffer", "data"]
_STEP = 0.1
_FILES = ("replay.json", "replay.safetensors")


class AdaptiveReplay:
    """Prefixes of the student, generated or replayed; see the module.

    Args:
        sampling: how the student is asked.
        schedule: how the share of fresh texts moves over the training.
        init_threshold: th at the start; 0 begins with data alone.
        loss_eps: by how much the held-out loss must rise for th to grow.
        capacity: texts that are kept; the oldest go first. Each process keeps its own.
        seed: of the draws.

    Attributes:
        threshold: th.

    Source: Ko et al. 2024.

    >>> replay = AdaptiveReplay(Sampling(), init_threshold=0.5)
    >>> replay.validated(1.0)
    >>> replay.validated(1.2)
    >>> replay.threshold
    0.6
    """

    @checked
    def __init__(
        self,
        sampling: Sampling,
        *,
        schedule: Schedule = "decreasing",
        init_threshold: Probability = 0.0,
        loss_eps: NonNegative = 0.1,
        capacity: Count = 1000,
        seed: Whole = 0,
    ) -> None:
        self.sampling = sampling
        self.schedule = schedule
        self.threshold = init_threshold
        self.loss_eps = loss_eps
        self.capacity = capacity
        self.seed = seed
        self._least: float | None = None
        self._buffer: deque[TokenRow] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._buffer)

    def origin(self, draw: float, moment: Moment) -> Origin:
        """Where a batch comes from, for r = `draw`."""
        part = moment.step / moment.total
        share = {"decreasing": 1 - part, "constant": 0.5, "increasing": part}[self.schedule]
        if draw >= self.threshold:
            return "data"
        fresh = draw < self.threshold * share or len(self._buffer) < self.capacity
        return "student" if fresh else "buffer"

    def replace(self, batch: Batch, student: nn.Module, moment: Moment) -> Batch:
        """The batch, the student's answers to its prompts, or as many texts of the buffer."""
        draw = np.random.default_rng(draw_seed(self.seed, moment._replace(process=0), 0)).random()
        origin = self.origin(draw, moment)
        if origin == "data":
            return batch
        if origin == "student":
            fresh = generate_batch(student, batch, self.sampling, draw_seed(self.seed, moment, 1))
            for ids, labels, mask in zip(fresh["input_ids"], fresh["labels"], fresh["attention_mask"], strict=True):
                length = int(mask.sum())
                self._buffer.append(TokenRow(ids[:length].tolist(), labels[:length].tolist(), 0))
            return fresh
        rng = np.random.default_rng(draw_seed(self.seed, moment, 2))
        count = len(batch["input_ids"])
        places = rng.choice(len(self._buffer), size=count, replace=count > len(self._buffer))
        found = collate_tokens([self._buffer[place] for place in places], self.sampling.pad_token_id)
        kept = {name: value for name, value in batch.items() if name not in found or name == "row"}
        return {**{name: value.to(batch["input_ids"].device) for name, value in found.items()}, **kept}

    def validated(self, loss: float) -> None:
        """Take note of a held-out loss; the first one only sets the mark."""
        if self._least is None:
            self._least = float(loss)
        elif loss >= self._least + self.loss_eps:
            self.threshold = min(round(self.threshold + _STEP, 10), 1.0)
            self._least = float(loss)

    def state_dict(self) -> dict[str, Any]:
        """Threshold, mark and buffer, as tensors and numbers."""
        return {
            "threshold": self.threshold,
            "mark": self._least,
            "ids": torch.tensor([token for one in self._buffer for token in one.input_ids], dtype=torch.long),
            "labels": torch.tensor([token for one in self._buffer for token in one.labels], dtype=torch.long),
            "lengths": torch.tensor([len(one.input_ids) for one in self._buffer], dtype=torch.long),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state; a buffer that is larger than this one keeps its newest texts."""
        lengths = state["lengths"].tolist()
        parts = zip(state["ids"].split(lengths), state["labels"].split(lengths), strict=True) if lengths else ()
        self.threshold, self._least = float(state["threshold"]), state["mark"]
        self._buffer = deque(
            (TokenRow(ids.tolist(), labels.tolist(), 0) for ids, labels in parts), maxlen=self.capacity
        )

    def save(self, folder: str | Path) -> None:
        """Write the state, as JSON and safetensors, whole or not at all."""
        from safetensors.torch import save_file

        state = self.state_dict()
        tensors = {name: state.pop(name) for name in ("ids", "labels", "lengths")}
        numbers, arrays = (Path(folder, name) for name in _FILES)
        with _aside(arrays) as path:
            save_file(tensors, path)
        with _aside(numbers) as path:
            path.write_text(json.dumps(state), encoding="utf-8")

    def load(self, folder: str | Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            ValueError: if it is not there or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        state, tensors = (Path(folder, name) for name in _FILES)
        try:
            self.load_state_dict({**json.loads(state.read_text(encoding="utf-8")), **load_file(tensors)})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder} holds no whole replay buffer: {error}") from error


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A place beside the file, which takes the file's once it is written."""
    beside = path.with_name(path.name + ".new")
    yield beside
    os.replace(beside, path)
