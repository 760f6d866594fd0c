"""A scikit-learn classifier trained with any objective of this library.

    EquipoiseClassifier("partial_auc", max_fpr=0.05).fit(features, target).decision_function(new)

Features are standardised inside. Where no class is rare, a part of the training data is held out for early stopping on
the metric that the objective is for, and to calibrate: a ranking loss fixes the order of scores only, so
`predict_proba` is a monotone logistic fit (`core.calibration`) of scores of rows that were not trained on, held out or
out of fold (`estimators.calibrating`), and `predict` its most probable class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from equipoise.core.arrays import as_tensor
from equipoise.core.fingerprint import fingerprint
from equipoise.core.validate import check_choice
from equipoise.estimators.calibrating import Calibration, calibration_sample, check_calibration, fit_calibration
from equipoise.estimators.holding_out import HeldFraction, hold_out
from equipoise.estimators.sample_weights import counted_rows
from equipoise.estimators.saving import plain, written_whole
from equipoise.ranking.criteria import Criterion, fitting_criterion
from equipoise.training.fit import HeldOut, Plan, Run, fit_module, run_identity
from equipoise.training.networks import Standardize, mlp
from equipoise.training.objectives import OBJECTIVES, make_objective

Array = NDArray[Any]

_WEIGHTS, _SETTINGS = "network.safetensors", "settings.json"


class _Table(NamedTuple):
    """Rows to train on: features (n, d), class indices (n,), and weights (n,) if any."""

    features: Tensor
    target: Tensor
    weight: Tensor | None

    def of(self, rows: Array) -> _Table:
        """Some of the rows."""
        return _Table(self.features[rows], self.target[rows], None if self.weight is None else self.weight[rows])


class EquipoiseClassifier(ClassifierMixin, BaseEstimator):
    """A neural classifier for the part of the ROC curve that matters.

    Args:
        objective: a name in `equipoise.training.OBJECTIVES`, or a module called as loss(logits, target), of which
            every `fit` trains a copy.
        model: "mlp" or "linear".
        max_fpr: false-positive budget in (0, 1] of the objective and of the metric.
        min_tpr: least true-positive rate in [0, 1) of both.
        metric: what early stopping looks at, the name of a `Criterion`; by default TPAUC or OPAUC where bounds are
            given, else AUROC (one-vs-one for several classes).
        k: length of the list of a top-k objective or metric; see `Criterion`.
        optimizer: a name in `equipoise.training.OPTIMIZERS`; all but "adamw" need a loss of every sample.
        hidden: widths of the hidden layers of "mlp".
        dropout: after every hidden layer.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        epochs: at most.
        batch_size: samples of a step; None takes a sixteenth of the training rows, between 16 and 256.
        positive_rate: share of positives in every batch of a binary problem; None keeps the data's.
        validation_fraction: share of the rows of each class that is held out, in [0, 1). 0 or None trains on all rows
            for all epochs; so does a share of less than three rows of a class. "auto" holds out a fifth where every
            class has at least 50 rows, and nothing else.
        calibration: what probabilities are calibrated on; always the rows held out where there are some. Where there
            are none, "cross_fit" trains up to five more networks, each without a fold of the rows, and calibrates on
            the scores of the rows left out: `fit` takes about five times as long. "held_out" makes do with the
            training scores, which makes probabilities too sure, and warns; so does "cross_fit" where a class has one
            row. None leaves the scores as they are: of a ranking objective, they only rank.
        patience: epochs without a better held-out result before stopping.
        random_state: seed or `numpy.random.RandomState`.
        progress: whether to show a progress bar.
        checkpoint_folder: where to log to and to resume from after a crash, see `equipoise.training.fit_module`. Every
            fit has a folder of its own in it, named after its data, seed, settings and loss, so that folds and searches
            may share one; with `random_state=None` no two fits are alike, and none is resumed.

    Attributes:
        classes_: (C,) the labels.
        n_features_in_: number of features.
        n_epochs_: epochs trained.
        best_score_: the held-out metric of the weights that were kept; NaN without held-out data.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.where(x[:, 0] + x[:, 1] > 1.5, "fraud", "fine")
    >>> model = EquipoiseClassifier("auc", epochs=20, random_state=0).fit(x, y)
    >>> model.predict(x[:1]).shape, model.decision_function(x).shape
    ((1,), (200,))
    """

    def __init__(
        self,
        objective: str | nn.Module = "auc",
        model: str = "mlp",
        max_fpr: float | None = None,
        min_tpr: float | None = None,
        metric: str | None = None,
        k: int | None = None,
        optimizer: str = "adamw",
        hidden: Sequence[int] = (64, 32),
        dropout: float = 0.0,
        learning_rate: float = 5e-3,
        weight_decay: float = 1e-4,
        epochs: int = 60,
        batch_size: int | None = None,
        positive_rate: float | None = None,
        validation_fraction: HeldFraction = "auto",
        calibration: Calibration = "cross_fit",
        patience: int = 10,
        random_state: Any = None,
        progress: bool = False,
        checkpoint_folder: str | Path | None = None,
    ) -> None:
        self.objective = objective
        self.model = model
        self.max_fpr = max_fpr
        self.min_tpr = min_tpr
        self.metric = metric
        self.k = k
        self.optimizer = optimizer
        self.hidden = hidden
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.positive_rate = positive_rate
        self.validation_fraction = validation_fraction
        self.calibration = calibration
        self.patience = patience
        self.random_state = random_state
        self.progress = progress
        self.checkpoint_folder = checkpoint_folder

    def __sklearn_tags__(self) -> Any:
        """The tags of scikit-learn; `multi_class` is that of the objective."""
        tags = super().__sklearn_tags__()
        if isinstance(self.objective, str) and self.objective in OBJECTIVES:
            tags.classifier_tags.multi_class = self._declared("multiclass")
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> EquipoiseClassifier:
        """Train on features (n, d) and labels (n,) of any type.

        Args:
            X: (n, d) finite numbers.
            y: (n,) labels.
            sample_weight: (n,) non-negative, how often each row counts: in the objective, where pairs count as the
                product of their rows' weights, in the standardisation, early stopping and calibration. Batches are
                drawn by rows; where all rows are one batch, a weight of two is a row given twice.

        Raises:
            ValueError: on features that are not finite numbers, a single class, settings that do not fit together, or
                weights with an objective or optimizer that takes none.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        X, y, weight = counted_rows(sample_weight, X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs at least two classes, got one class: {self.classes_[0]!r}")
        check_choice("model", self.model, ("mlp", "linear"))
        check_calibration(self.calibration)
        if isinstance(self.objective, str):
            check_choice("objective", self.objective, OBJECTIVES)
            if weight is not None and not self._declared("weighs_samples"):
                known = ", ".join(repr(o.name) for o in OBJECTIVES.values() if o.weighs_samples)
                raise ValueError(f"objective {self.objective!r} takes no sample_weight; leave it out, or use {known}")
        criterion = fitting_criterion(
            self.metric, len(self.classes_), max_fpr=self.max_fpr, min_tpr=self.min_tpr, k=self.k
        )
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31 - 1))
        fit_rows, held_rows = hold_out(codes, self.validation_fraction, random)
        plan = Plan(
            epochs=self.epochs,
            batch_size=_batch_size(len(fit_rows)) if self.batch_size is None else self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            positive_rate=self.positive_rate,
            patience=self.patience,
            optimizer=self.optimizer,
            seed=seed,
            progress=self.progress,
        )
        table = _Table(as_tensor(X), torch.from_numpy(codes), None if weight is None else torch.from_numpy(weight))
        self.network_, run = self._train(table.of(fit_rows), table.of(held_rows), criterion, plan)
        self.n_epochs_ = run.epochs
        self.best_score_ = float("nan") if run.best is None else run.best
        self.calibration_ = (1.0, np.zeros(1 if len(self.classes_) == 2 else len(self.classes_)))
        if self.calibration is not None:
            none = table.of(held_rows[:0])
            raw, rows = calibration_sample(
                self.calibration,
                codes,
                held_rows,
                seed,
                lambda rows: self._scores(self.network_, table.features[rows]),
                lambda kept, left_out: self._scores(
                    self._train(table.of(kept), none, criterion, plan)[0], table.features[left_out]
                ),
            )
            scale, offset = fit_calibration(
                raw, codes[rows], None if weight is None else weight[rows], shift=not self._declared("decides")
            )
            self.calibration_ = (scale, np.atleast_1d(offset))
        return self

    def _train(self, fit: _Table, held: _Table, criterion: Criterion, plan: Plan) -> tuple[nn.Sequential, Run]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            network = self._network(fit.features, fit.weight)
        counts = torch.bincount(fit.target, fit.weight)
        loss, held_out, folder = self._loss(counts), None, None
        if len(held.target):
            judge = criterion if held.weight is None else partial(criterion, sample_weight=held.weight)
            held_out = HeldOut(held.features.float(), held.target, judge)
        weight = None if fit.weight is None else (fit.weight / fit.weight.mean()).float()
        data = (fit.features.float(), fit.target)
        if self.checkpoint_folder is not None:
            identity = run_identity(network, loss, data if weight is None else (*data, weight), plan, held_out)
            folder = Path(self.checkpoint_folder) / fingerprint(identity)[:16]
        run = fit_module(network, loss, *data, plan, sample_weight=weight, held_out=held_out, folder=folder)
        # Scored in float64, a row's score does not depend on which rows it is scored with.
        return network.double(), run

    def decision_function(self, X: Any) -> Array:
        """Scores: (n,) log-odds of `classes_[1]` for two classes, (n, C) for more.

        They are the network's scores on the calibrated scale, which keeps every order within a column.
        """
        check_is_fitted(self, "network_")
        X = validate_data(self, X, reset=False, dtype=np.float64)
        scale, offset = self.calibration_
        raw = self._scores(self.network_, as_tensor(X)).numpy()
        return scale * raw + (offset[0] if raw.ndim == 1 else offset)

    def predict_proba(self, X: Any) -> Array:
        """(n, C) probabilities, calibrated by `calibration`; for two classes in the order of `decision_function`."""
        scores = torch.from_numpy(self.decision_function(X))
        if scores.ndim == 1:
            return torch.stack([torch.sigmoid(-scores), torch.sigmoid(scores)], dim=1).numpy()
        return torch.softmax(scores, dim=1).numpy()

    def predict(self, X: Any) -> Array:
        """The most probable class of every row."""
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]

    def save(self, folder: str | Path) -> None:
        """Write the fitted model as safetensors and JSON; labels must be numbers, strings or booleans.

        Raises:
            ValueError: if the objective is a module, or labels are of another type.
        """
        check_is_fitted(self)
        if not isinstance(self.objective, str):
            raise ValueError("a model with an objective of its own cannot be saved; save its `network_` instead")
        if self.classes_.dtype.kind not in "biufUSO":
            raise ValueError(f"labels of type {self.classes_.dtype} cannot be saved; use numbers or strings")
        parameters = {k: v for k, v in self.get_params().items() if k not in ("random_state", "checkpoint_folder")}
        settings = {
            "parameters": plain(parameters),
            "classes": plain(self.classes_),
            "class_type": self.classes_.dtype.str if self.classes_.dtype.kind != "O" else "O",
            "features": self.n_features_in_,
            "feature_names": list(getattr(self, "feature_names_in_", [])),
            "calibration": [self.calibration_[0], self.calibration_[1].tolist()],
            "epochs": self.n_epochs_,
            "best_score": self.best_score_ if np.isfinite(self.best_score_) else None,
        }
        text = json.dumps(settings, indent=1)
        with written_whole(folder) as aside:
            save_file(self.network_.state_dict(), aside / _WEIGHTS)
            (aside / _SETTINGS).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> EquipoiseClassifier:
        """Read a model that `save` wrote; nothing is unpickled.

        Raises:
            FileNotFoundError: if the folder holds no such model.
        """
        folder = Path(folder)
        settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        self = cls(**{**settings["parameters"], "hidden": tuple(settings["parameters"]["hidden"])})
        self.classes_ = np.array(settings["classes"], dtype=np.dtype(settings["class_type"]))
        self.n_features_in_ = settings["features"]
        if settings["feature_names"]:
            self.feature_names_in_ = np.array(settings["feature_names"], dtype=object)
        self.calibration_ = (settings["calibration"][0], np.array(settings["calibration"][1]))
        self.n_epochs_ = settings["epochs"]
        self.best_score_ = float("nan") if settings["best_score"] is None else settings["best_score"]
        self.network_ = self._network(torch.zeros(1, self.n_features_in_)).double()
        self.network_.load_state_dict(load_file(folder / _WEIGHTS))
        self.network_.eval()
        return self

    def _network(self, features: Tensor, weight: Tensor | None = None) -> nn.Sequential:
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        hidden = plain(self.hidden) if self.model == "mlp" else ()
        return nn.Sequential(
            Standardize(features, weight),
            *mlp(features.shape[1], outputs, hidden, dropout=self.dropout, cosines=self._declared("cosines")),
        )

    @staticmethod
    @torch.no_grad()
    def _scores(network: nn.Module, features: Tensor) -> Tensor:
        scores: Tensor = network(features)
        return scores.squeeze(1) if scores.shape[1] == 1 else scores

    def _loss(self, counts: Tensor) -> nn.Module:
        if isinstance(self.objective, nn.Module):
            return deepcopy(self.objective)
        return make_objective(
            self.objective,
            num_classes=len(self.classes_),
            class_counts=counts.tolist(),
            max_fpr=self.max_fpr,
            min_tpr=self.min_tpr,
            total_epochs=self.epochs,
            k=self.k,
        )

    def _declared(self, flag: str) -> bool:
        """Whether the objective says so of itself; a module says nothing."""
        return isinstance(self.objective, str) and bool(getattr(OBJECTIVES[self.objective], flag))


def _batch_size(rows: int) -> int:
    """Small tables need many steps more than large batches."""
    return min(256, max(16, rows // 16))
