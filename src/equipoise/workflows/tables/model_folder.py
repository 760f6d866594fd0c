"""A fitted model on disk: what it is, how its table is encoded, and its weights. Nothing in it is unpickled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from equipoise import __version__
from equipoise.training.optimizers import PLAIN
from equipoise.workflows.errors import InputError
from equipoise.workflows.manifest import check_manifest, write_manifest
from equipoise.workflows.tables.booster_check import check_booster
from equipoise.workflows.tables.candidates import Candidate
from equipoise.workflows.tables.encoder_file import TREE, read_encoder, write_encoder

_DESCRIPTION, _ESTIMATOR = "model.json", "estimator"
_FORMAT = 2


@dataclass(frozen=True)
class FittedModel:
    """An encoder and an estimator that belong together.

    Attributes:
        candidate: model family and objective.
        encoder: fitted table encoding.
        estimator: fitted classifier of class codes.
        target: name of the target column.
        classes: labels in the order of the codes; for two, the second is the positive one.
        metric: what it was chosen or stopped by, for a reader.
    """

    candidate: Candidate
    encoder: Any
    estimator: Any
    target: str
    classes: tuple[Any, ...]
    metric: str

    def save(self, folder: Path) -> None:
        """Write the folder: `model.json`, the encoder's files, `estimator/`, and the list of them."""
        folder.mkdir(parents=True, exist_ok=True)
        write_encoder(self.encoder, folder)
        self.estimator.save(folder / _ESTIMATOR)
        description = {
            "format": _FORMAT,
            "equipoise": __version__,
            "skrub": version("skrub"),
            **self.candidate.choices,
            "target": self.target,
            "classes": list(self.classes),
            "metric": self.metric,
        }
        (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")
        write_manifest(folder)

    @classmethod
    def load(cls, folder: Path) -> FittedModel:
        """Read the folder that `equipoise fit` wrote, or its `model/` folder.

        Raises:
            InputError: if it is none, is of another format, or is damaged.
        """
        if not (folder / _DESCRIPTION).is_file() and (folder / "model" / _DESCRIPTION).is_file():
            folder = folder / "model"
        if not (folder / _DESCRIPTION).is_file():
            raise InputError(f"{folder} holds no model; name the folder that `equipoise fit` wrote")
        with _readable(folder / _DESCRIPTION):
            description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            found = description.get("format")
        if found != _FORMAT:
            raise InputError(f"{folder} is of format {found!r}, this equipoise reads {_FORMAT}; fit the model again")
        check_manifest(folder)
        with _readable(folder / _DESCRIPTION):
            candidate = Candidate(description["model"], description["objective"], description.get("optimizer", PLAIN))
            classes = tuple(description["classes"])
            target, metric = str(description["target"]), str(description["metric"])
        written_by = f" (it was written with skrub {description.get('skrub')})"
        with _readable(folder / TREE, written_by):
            encoder = read_encoder(folder)
            features = len(encoder.vectorizer_.all_outputs_)
        with _readable(folder / _ESTIMATOR):
            return cls(
                candidate, encoder, _estimator(candidate, folder, len(classes), features), target, classes, metric
            )


@contextmanager
def _readable(path: Path, hint: str = "") -> Iterator[None]:
    """Turn whatever reading a damaged file raises into one sentence: readers raise of all kinds."""
    try:
        yield
    except Exception as error:
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is damaged or none of this program's: {words}{hint}") from error


def _estimator(candidate: Candidate, folder: Path, classes: int, features: int) -> Any:
    """The estimator, after a look at its numbers and one prediction."""
    kind, network = candidate.family.load(), candidate.family.network
    if not network:
        path = folder / _ESTIMATOR / kind._booster_file
        check_booster(path, features=features, outputs=1 if classes == 2 else classes)
    estimator = kind.load(folder / _ESTIMATOR)
    if network and not all(bool(w.isfinite().all()) for w in estimator.network_.state_dict().values()):
        raise ValueError("its weights are not finite")
    tried = estimator.predict_proba(np.zeros((1, features), dtype=np.float32))
    if tried.shape != (1, classes) or not np.isfinite(tried).all():
        raise ValueError(f"it gives no probabilities of {classes} classes")
    return estimator
