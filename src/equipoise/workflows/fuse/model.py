"""A learner for each block of features and their sum, in a folder that nothing is unpickled from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from equipoise.multimodal import ModalityEnsemble
from equipoise.workflows.errors import InputError

_ABOUT, _WEIGHTS, _FORMAT = "fusion.json", "weights.safetensors", 1


def make_learner(features: int, hidden: int, classes: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )


@dataclass(frozen=True, eq=False)
class FusionModel:
    """What `equipoise fuse` trained.

    Attributes:
        method: that trained it.
        ensemble: of learners, each of standardised features.
        mean: block → (d,) of the rows that were learned from.
        scale: block → (d,) of the same.
        columns: block → names of its features, in their order.
        classes: what each class code stands for.
        hidden: width of the learners.
    """

    method: str
    ensemble: ModalityEnsemble
    mean: Mapping[str, NDArray[np.float32]]
    scale: Mapping[str, NDArray[np.float32]]
    columns: Mapping[str, tuple[str, ...]]
    classes: tuple[Any, ...]
    hidden: int

    def predict_proba(self, blocks: Mapping[str, Any]) -> NDArray[np.float32]:
        """Probabilities (n, C) of rows.

        Args:
            blocks: block → (n, d) features as they were in the file; NaN counts as the mean. Blocks that are missing
                are left out of the sum.

        Raises:
            InputError: if a block is unknown, none is there, or sizes disagree.
        """
        inputs = {name: self.standardised(name, values) for name, values in blocks.items()}
        if len({len(x) for x in inputs.values()}) != 1:
            sizes = ", ".join(f"{len(x)} rows of {name!r}" for name, x in inputs.items())
            raise InputError(f"blocks must have equally many rows, got {sizes or 'no block'}")
        with torch.no_grad():
            self.ensemble.eval()
            logits = self.ensemble(inputs)
        found: NDArray[np.float32] = logits.softmax(1).numpy()
        return found

    def standardised(self, name: str, values: Any) -> Tensor:
        """Features as the learner takes them."""
        if name not in self.columns:
            raise InputError(f"there is no block {name!r}; the model has {', '.join(map(repr, self.columns))}")
        x = np.asarray(values, dtype=np.float32)
        if x.ndim != 2 or x.shape[1] != len(self.columns[name]):
            raise InputError(f"block {name!r} has shape {x.shape}, wanted (n, {len(self.columns[name])})")
        return torch.from_numpy(standardise(x, self.mean[name], self.scale[name]))

    def save(self, folder: Path) -> None:
        """Write `fusion.json` and `weights.safetensors`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "format": _FORMAT,
            "method": self.method,
            "hidden": self.hidden,
            "classes": list(self.classes),
            "columns": {name: list(columns) for name, columns in self.columns.items()},
        }
        (folder / _ABOUT).write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding="utf-8")
        tensors = {f"ensemble.{name}": value.contiguous() for name, value in self.ensemble.state_dict().items()}
        for kind, of in (("mean", self.mean), ("scale", self.scale)):
            tensors |= {f"{kind}.{place}": torch.from_numpy(of[name]) for place, name in enumerate(self.columns)}
        save_file(tensors, folder / _WEIGHTS)

    @classmethod
    def load(cls, folder: str | Path) -> FusionModel:
        """Read the folder that `equipoise fuse` wrote, or its `model` folder.

        Raises:
            InputError: if it is none, is of another format, or is damaged.
        """
        from safetensors.torch import load_file

        place = Path(folder)
        if not (place / _ABOUT).is_file():
            place = place / "model"
        if not (place / _ABOUT).is_file():
            raise InputError(f"{folder} holds no model; name the folder that `equipoise fuse` wrote")
        try:
            about = json.loads((place / _ABOUT).read_text(encoding="utf-8"))
            if about["format"] != _FORMAT:
                raise InputError(f"{folder} is of format {about['format']!r}, this equipoise reads {_FORMAT}")
            columns = {str(name): tuple(map(str, of)) for name, of in about["columns"].items()}
            classes, hidden = tuple(about["classes"]), int(about["hidden"])
            tensors = load_file(place / _WEIGHTS)
            ensemble = ModalityEnsemble(
                {name: make_learner(len(of), hidden, len(classes)) for name, of in columns.items()}
            )
            starts = "ensemble."
            ensemble.load_state_dict({k[len(starts) :]: v for k, v in tensors.items() if k.startswith(starts)})
            if not all(bool(value.isfinite().all()) for value in tensors.values()):
                raise ValueError("its weights are not finite")
            mean, scale = (
                {name: tensors[f"{kind}.{place}"].numpy() for place, name in enumerate(columns)}
                for kind in ("mean", "scale")
            )
        except InputError:
            raise
        except Exception as error:
            words = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"{folder} is damaged or none of this program's: {words}") from error
        return cls(str(about["method"]), ensemble.eval(), mean, scale, columns, classes, hidden)


def standardise(x: NDArray[np.float32], mean: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """(x − mean) / scale, 0 where x is not known."""
    return np.nan_to_num((x - mean) / scale, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)


def moments(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each feature, of what is known; 0 and 1 where nothing is or nothing varies."""
    known = np.isfinite(x)
    count = np.maximum(known.sum(0), 1)
    held = np.where(known, x, 0.0).astype(np.float64)
    mean = held.sum(0) / count
    scale = np.sqrt((np.where(known, held - mean, 0.0) ** 2).sum(0) / count)
    return mean.astype(np.float32), np.where(scale > 1e-12, scale, 1.0).astype(np.float32)
