"""A fitted model on disk: what it is, how its table is encoded, and its weights. Nothing in it is unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

from equipoise import __version__
from equipoise.training.optimizers import PLAIN
from equipoise.workflows.errors import InputError
from equipoise.workflows.tables.candidates import NEURAL, Candidate

_DESCRIPTION, _ENCODER, _ESTIMATOR = "model.json", "encoder.skops", "estimator"
_FORMAT = 1
# Beside what skops itself trusts, an encoder file may hold these types only; any other in it is refused.
_TRUSTED = ("skrub.", "equipoise.data.tables.encoding.", "numpy.dtype")


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
        """Write the folder: `model.json`, `encoder.skops`, `estimator/`."""
        import skops.io

        folder.mkdir(parents=True, exist_ok=True)
        skops.io.dump(self.encoder, folder / _ENCODER, compression=ZIP_DEFLATED)
        self.estimator.save(folder / _ESTIMATOR)
        description = {
            "format": _FORMAT,
            "equipoise": __version__,
            **self.candidate.choices,
            "target": self.target,
            "classes": [label.item() if hasattr(label, "item") else label for label in self.classes],
            "metric": self.metric,
        }
        (folder / _DESCRIPTION).write_text(json.dumps(description, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> FittedModel:
        """Read the folder that `equipoise fit` wrote, or its `model/` folder.

        Raises:
            InputError: if it is none, is of a later format, or its encoder holds types of other packages.
        """
        import skops.io

        if not (folder / _DESCRIPTION).is_file() and (folder / "model" / _DESCRIPTION).is_file():
            folder = folder / "model"
        if not (folder / _DESCRIPTION).is_file():
            raise InputError(f"{folder} holds no model; name the folder that `equipoise fit` wrote")
        description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
        if description.get("format") != _FORMAT:
            raise InputError(
                f"{folder} is of format {description.get('format')!r}, this equipoise reads {_FORMAT}; upgrade it"
            )
        foreign = skops.io.get_untrusted_types(file=folder / _ENCODER)
        if strange := [name for name in foreign if not name.startswith(_TRUSTED)]:
            raise InputError(f"{folder / _ENCODER} holds objects of types that no encoder has: {', '.join(strange)}")
        candidate = Candidate(description["model"], description["objective"], description.get("optimizer", PLAIN))
        return cls(
            candidate,
            skops.io.load(folder / _ENCODER, trusted=foreign),
            _estimator_class(candidate).load(folder / _ESTIMATOR),
            description["target"],
            tuple(description["classes"]),
            description["metric"],
        )


def _estimator_class(candidate: Candidate) -> Any:
    if candidate.model in NEURAL:
        from equipoise.estimators.network_classifier import EquipoiseClassifier

        return EquipoiseClassifier
    if candidate.model == "lightgbm":
        from equipoise.estimators.lightgbm import LightGBMRankingClassifier

        return LightGBMRankingClassifier
    from equipoise.estimators.xgboost import XGBoostRankingClassifier

    return XGBoostRankingClassifier
