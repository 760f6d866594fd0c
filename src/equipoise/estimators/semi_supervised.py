"""A scikit-learn classifier for few labels and many samples without.

    SemiSupervisedClassifier().fit(features, labels_or_minus_one).predict(new)

It is `equipoise.semisup.SemiSupervisedTrainer` with a network and views that suit tables, signals or images.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

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
from equipoise.core.signature import as_whole
from equipoise.estimators.saving import plain, written_whole
from equipoise.semisup.training.settings import SemiSupervisedSettings
from equipoise.semisup.training.trainer import SemiSupervisedTrainer
from equipoise.semisup.views.images import ImageAugmentation
from equipoise.semisup.views.rows import SignalAugmentation, TableAugmentation
from equipoise.training.networks import Standardize, convolutions, mlp

Array = NDArray[Any]

_VIEWS: dict[int, type[TableAugmentation | SignalAugmentation | ImageAugmentation]] = {
    2: TableAugmentation,
    3: SignalAugmentation,
    4: ImageAugmentation,
}
_WEIGHTS, _SETTINGS = "network.safetensors", "settings.json"
_ROWS = 4096


class SemiSupervisedClassifier(ClassifierMixin, BaseEstimator):
    """A neural classifier that learns from samples without labels, too: MaxMatch, FixMatch, UDA or Mean Teacher.

    Args:
        method: a name in `equipoise.semisup.METHODS`; "supervised" leaves out samples without a label.
        network: maps inputs (n, ...) to logits (n, C), of which every `fit` trains a copy; by default a multilayer
            perceptron for tables, two convolutions for signals and images. Columns of a table are standardised before.
        weak: a function of (batch, generator) that gives weak views; by default that of the kind of data.
        strong: the same for strong views. Those of images are for pixels in [0, 1].
        steps: least number of training steps; samples without a label are gone through whole.
        learning_rate: of SGD with momentum; None for the method's.
        batch_size: labelled samples of a step; None for the method's.
        settings: other changes of `SemiSupervisedSettings`, such as {"threshold": 0.8, "two_pass": True}. Unless it is
            among them, the momentum of the average is 1 − 10/steps and at most .999.
        unlabelled: what marks samples without a label.
        random_state: seed or `numpy.random.RandomState`.
        checkpoint_folder: where to write a checkpoint after every pass, and to go on from one of the same data and
            settings; with `random_state=None` no two fits are alike, and none is resumed.

    Attributes:
        classes_: (C,) the labels.
        n_features_in_: number of columns, or of channels.
        input_shape_: shape of a sample.
        statistics_: what `SemiSupervisedTrainer.statistics` says of the last pass.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(300, 3))
    >>> y = np.where(np.arange(300) < 30, x[:, 0] > 0, -1)
    >>> model = SemiSupervisedClassifier(steps=100, random_state=0).fit(x, y)
    >>> bool((model.predict(x) == (x[:, 0] > 0)).mean() > 0.9)
    True
    """

    def __init__(
        self,
        method: str = "maxmatch",
        network: nn.Module | None = None,
        weak: Callable[..., Tensor] | None = None,
        strong: Callable[..., Tensor] | None = None,
        steps: int = 1000,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        settings: Mapping[str, Any] | None = None,
        unlabelled: Any = -1,
        random_state: Any = None,
        checkpoint_folder: str | Path | None = None,
    ) -> None:
        self.method = method
        self.network = network
        self.weak = weak
        self.strong = strong
        self.steps = steps
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.settings = settings
        self.unlabelled = unlabelled
        self.random_state = random_state
        self.checkpoint_folder = checkpoint_folder

    def fit(self, X: Any, y: Any) -> SemiSupervisedClassifier:
        """Train.

        Args:
            X: (n, d) rows, (n, channels, time) signals, or (n, channels, height, width) images; arrays or tensors.
            y: (n,) labels of any type, `unlabelled` where there is none.

        Raises:
            ValueError: on inputs that are not finite numbers, fewer than two classes, or settings out of range.
        """
        X, y = validate_data(self, _array(X), _array(y), dtype=np.float32, allow_nd=True)
        known = ~_is_marked(y, self.unlabelled)
        if not known.any():
            raise ValueError(f"y has no labels, all are unlabelled={self.unlabelled!r}")
        labels = y[known]
        if labels.dtype == object and not isinstance(labels[0], str):
            # Numbers that stood beside a mark of another type.
            labels = np.array(labels.tolist())
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"{type(self).__name__} needs at least two classes, got one class: {self.classes_[0]!r}")
        target = torch.full((len(y),), -1)
        target[torch.from_numpy(known)] = torch.from_numpy(codes)
        self.input_shape_ = X.shape[1:]
        inputs = as_tensor(X)
        if inputs.ndim == 2:
            self.scaler_ = Standardize(inputs)
            inputs = self.scaler_(inputs)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = self._network(inputs)
        weak, strong = self._views(inputs.ndim)
        chosen = self._chosen(int((~known).sum()), int(known.sum()), seed)
        trainer = SemiSupervisedTrainer(network, inputs, target, weak=weak, strong=strong, settings=chosen)
        checkpoint = None
        if self.checkpoint_folder is not None:
            Path(self.checkpoint_folder).mkdir(parents=True, exist_ok=True)
            checkpoint = Path(self.checkpoint_folder) / f"{trainer.fingerprint()[:16]}.pt"
        trainer.fit(checkpoint=checkpoint)
        self.statistics_ = trainer.statistics
        # Scored in float64, a sample's score does not depend on which samples it is scored with.
        self.network_ = trainer.model.double().eval()
        return self

    def decision_function(self, X: Any) -> Array:
        """Scores: (n,) log-odds of `classes_[1]` for two classes, (n, C) logits for more."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> Array:
        """(n, C) probabilities: the network's own, which few labels leave too sure."""
        return torch.from_numpy(self._logits(X)).softmax(1).numpy()

    def predict(self, X: Any) -> Array:
        """The most probable class of every sample."""
        logits = self._logits(X)
        return self.classes_[logits.argmax(1)]

    def save(self, folder: str | Path) -> None:
        """Write the fitted model as safetensors and JSON; labels must be numbers, strings or booleans.

        Raises:
            ValueError: if the network or a view is one of yours, or labels are of another type.
        """
        check_is_fitted(self, "network_")
        own = [name for name in ("network", "weak", "strong") if getattr(self, name) is not None]
        if own:
            raise ValueError(f"a model with a {own[0]} of its own cannot be saved; save its `network_` instead")
        if self.classes_.dtype.kind not in "biufUSO":
            raise ValueError(f"labels of type {self.classes_.dtype} cannot be saved; use numbers or strings")
        left_out = ("network", "weak", "strong", "random_state", "checkpoint_folder")
        about = {
            "parameters": plain({k: v for k, v in self.get_params().items() if k not in left_out}),
            "classes": plain(self.classes_),
            "class_type": self.classes_.dtype.str if self.classes_.dtype.kind != "O" else "O",
            "shape": list(self.input_shape_),
            "feature_names": list(getattr(self, "feature_names_in_", [])),
            "statistics": self.statistics_,
        }
        text = json.dumps(about, indent=1)
        tensors = {f"network.{name}": value.contiguous() for name, value in self.network_.state_dict().items()}
        if len(self.input_shape_) == 1:
            tensors |= {f"scaler.{name}": value for name, value in self.scaler_.state_dict().items()}
        with written_whole(folder) as aside:
            save_file(tensors, aside / _WEIGHTS)
            (aside / _SETTINGS).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> SemiSupervisedClassifier:
        """Read a model that `save` wrote; nothing is unpickled.

        Raises:
            FileNotFoundError: if the folder holds no such model.
        """
        about = json.loads((Path(folder) / _SETTINGS).read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / _WEIGHTS)
        self = cls(**about["parameters"])
        self.classes_ = np.array(about["classes"], dtype=np.dtype(about["class_type"]))
        self.input_shape_, self.n_features_in_ = tuple(about["shape"]), about["shape"][0]
        if about["feature_names"]:
            self.feature_names_in_ = np.array(about["feature_names"], dtype=object)
        self.statistics_ = about["statistics"]
        blank = torch.zeros(1, *self.input_shape_)
        parts: dict[str, nn.Module] = {"network": self._network(blank).double()}
        if len(self.input_shape_) == 1:
            parts["scaler"] = Standardize(blank)
        for prefix, part in parts.items():
            own = {k.removeprefix(f"{prefix}."): v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
            part.load_state_dict(own)
            setattr(self, f"{prefix}_", part.eval())
        return self

    def _chosen(self, unlabelled: int, labelled: int, seed: int) -> SemiSupervisedSettings:
        steps = as_whole("steps", self.steps)
        if steps < 1:
            raise ValueError(f"steps={steps} must be a whole number of at least 1")
        given = {"learning_rate": self.learning_rate, "batch_size": self.batch_size}
        changes = {name: value for name, value in given.items() if value is not None} | dict(self.settings or {})
        average = {"average": min(0.999, max(0.0, 1 - 10 / steps))}
        chosen = SemiSupervisedSettings.usual(self.method, **{**average, **changes, "seed": seed})
        size, samples = (chosen.unlabelled_size, unlabelled) if unlabelled else (chosen.batch_size, labelled)
        epochs = -(-steps // -(-samples // size))
        return SemiSupervisedSettings.usual(self.method, **{**average, **changes, "seed": seed, "epochs": epochs})

    def _views(self, ndim: int) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
        if ndim not in _VIEWS and (self.weak is None or self.strong is None):
            raise ValueError(
                f"X must have shape (n, d), (n, channels, time) or (n, channels, height, width), got {ndim} "
                "dimensions; give weak, strong and network for others"
            )
        kind = _VIEWS.get(ndim, TableAugmentation)
        return (
            kind.weak() if self.weak is None else self.weak,
            kind.strong() if self.strong is None else self.strong,
        )

    def _network(self, inputs: Tensor) -> nn.Module:
        if self.network is not None:
            return deepcopy(self.network)
        if inputs.ndim == 2:
            return mlp(inputs.shape[1], len(self.classes_))
        if inputs.ndim not in _VIEWS:
            raise ValueError(f"X with {inputs.ndim} dimensions needs a network of yours")
        return convolutions(inputs, len(self.classes_))

    def _logits(self, X: Any) -> Array:
        check_is_fitted(self, "network_")
        X = validate_data(self, _array(X), reset=False, dtype=np.float64, allow_nd=True)
        if X.shape[1:] != self.input_shape_:
            raise ValueError(f"X must have shape (n, {', '.join(map(str, self.input_shape_))}), got {X.shape}")
        inputs = as_tensor(X)
        if inputs.ndim == 2:
            inputs = self.scaler_(inputs)
        with torch.no_grad():
            return torch.cat([self.network_(part) for part in inputs.split(_ROWS)]).numpy()


def _array(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def _is_marked(y: Array, mark: Any) -> NDArray[np.bool_]:
    """Which labels are the mark; an array of strings that it was put into holds it as a string."""
    if y.dtype.kind in "US":
        mark = str(mark) if y.dtype.kind == "U" else str(mark).encode()
    return np.fromiter((value == mark for value in y.tolist()), dtype=bool, count=len(y))
