"""What the estimators of many linear tasks share: how data come in, prediction, and the file of a fitted model."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from equipoise.core.settings import HasSettings
from equipoise.core.signature import as_whole
from equipoise.core.validate import check_choice, check_finite, check_nonnegative
from equipoise.crowd.tasks.losses import TaskLoss, TaskLosses, task_losses

Self = TypeVar("Self", bound="LinearTasks")
TaskNames = Sequence[Hashable] | NDArray[Any]
LOSSES: tuple[TaskLoss, ...] = ("squared", "pairwise_square", "logistic")


class TaskRows(NamedTuple):
    """The rows of all tasks.

    Attributes:
        features: (n, d) in float64.
        y: (n,) in float64.
        task: (n,) whose row it is.
        names: of the tasks, in order of first appearance.
    """

    features: Tensor
    y: Tensor
    task: Tensor
    names: list[Any]


class LinearTasks(HasSettings):
    """A column of weights for each task.

    Attributes:
        coef_: (d, T).
        tasks_: the tasks, in order of first appearance; 0, 1, ... where matrices were given one a task.
    """

    coef_: NDArray[np.float64]
    tasks_: list[Any]
    loss: str
    _parts: ClassVar[tuple[str, ...]] = ("coef_",)

    def predict(
        self, X: ArrayLike | Sequence[ArrayLike], task: TaskNames | Hashable | None = None
    ) -> NDArray[np.float64] | list[NDArray[np.float64]]:
        """Scores x · w of the tasks.

        Args:
            X: (n, d), or a matrix for each task.
            task: (n,) the task of each row, or one task for all rows; None where X is a matrix for each task.

        Returns:
            (n,) or, of a matrix for each task, a vector for each.

        Raises:
            RuntimeError: before `fit`.
            KeyError: if a task is unknown.
            ValueError: if the features do not fit.
        """
        if not hasattr(self, "coef_"):
            raise RuntimeError(f"{type(self).__name__} is not fitted; call fit(X, y, task) first")
        if task is None:
            matrices = [self._matrix(each) for each in X]  # type: ignore[union-attr]
            if len(matrices) != len(self.tasks_):
                raise ValueError(
                    f"X has {len(matrices)} matrices for {len(self.tasks_)} tasks; name the task of each row"
                )
            return [x @ w for x, w in zip(matrices, self.coef_.T, strict=True)]
        features = self._matrix(X)
        names = list(task) if isinstance(task, list | tuple | np.ndarray) else [task] * len(features)
        if len(names) != len(features):
            raise ValueError(f"task must name one for each of {len(features)} rows, got {len(names)}")
        place = {name: k for k, name in enumerate(self.tasks_)}
        unknown = [name for name in names if name not in place]
        if unknown:
            raise KeyError(f"task {unknown[0]!r} was not fitted; there are {self.tasks_[:5]}")
        return np.einsum("nd,dn->n", features, self.coef_[:, [place[name] for name in names]])

    def save(self, path: str | Path) -> None:
        """Write the fitted model to one safetensors file; tasks must be strings or whole numbers.

        Raises:
            RuntimeError: before `fit`.
            TypeError: if a task has another name.
        """
        from safetensors.torch import save_file

        if not hasattr(self, "coef_"):
            raise RuntimeError(f"{type(self).__name__} is not fitted; call fit(X, y, task) first")
        plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.get_params().items()}
        about = {"model": type(self).__name__, "settings": json.dumps(plain), "tasks": json.dumps(self.tasks_)}
        parts = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in self._parts}
        save_file(parts, path, metadata=about)

    @classmethod
    def load(cls: type[Self], path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file does not hold such a model.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as held:
                about = held.metadata() or {}
                parts = {name: held.get_tensor(name).numpy() for name in cls._parts}
            if about["model"] != cls.__name__:
                raise ValueError(f"it holds a {about['model']}")
            settings = json.loads(about["settings"])
            if isinstance(settings.get("init"), list):
                settings["init"] = np.array(settings["init"])
            found = cls(**settings)
            found.tasks_ = json.loads(about["tasks"])
        except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
            raise ValueError(f"{path} does not hold a {cls.__name__}: {error}") from error
        for name, part in parts.items():
            setattr(found, name, part)
        found._restore()
        return found

    def _restore(self) -> None:
        """What follows from the parts that a file holds."""

    def _matrix(self, X: Any) -> NDArray[np.float64]:
        features = np.asarray(X, dtype=np.float64)
        if features.ndim != 2 or features.shape[1] != len(self.coef_):
            raise ValueError(f"X must have {len(self.coef_)} columns, got shape {features.shape}")
        return features

    def _losses(self, given: TaskRows) -> TaskLosses:
        check_choice("loss", self.loss, LOSSES)
        return task_losses(given.features, given.y, given.task, len(given.names), self.loss)  # type: ignore[arg-type]


def read_tasks(X: Any, y: Any, task: TaskNames | None) -> TaskRows:
    """The rows of all tasks, of a matrix and a vector for each, or of one matrix with the task of each row.

    Raises:
        ValueError: if they do not go together, a task is empty, or a value is not finite.
    """
    if task is None:
        return _of_lists(X, y)
    features, labels = _floats("X", X), _floats("y", y)
    names = [name.item() if isinstance(name, np.generic) else name for name in task]
    if features.ndim != 2 or labels.shape != features.shape[:1] or len(names) != len(features):
        raise ValueError(
            f"X, y and task must have shapes (n, d), (n,) and (n,), got {features.shape}, {labels.shape} and "
            f"({len(names)},)"
        )
    if not features.size:
        raise ValueError(f"X is empty, its shape is {features.shape}")
    known = {name: k for k, name in enumerate(dict.fromkeys(names))}
    owner = torch.tensor([known[name] for name in names])
    return _finite(TaskRows(torch.from_numpy(features), torch.from_numpy(labels), owner, list(known)))


def check_strengths(settings: HasSettings, *names: str) -> None:
    """Raise `ValueError` unless these settings are finite numbers of at least 0."""
    for name in names:
        check_nonnegative(name, getattr(settings, name))


def check_counts(settings: HasSettings, *names: str) -> None:
    """Raise `ValueError` unless these settings are whole numbers of at least 1."""
    for name in names:
        if as_whole(name, getattr(settings, name)) < 1:
            raise ValueError(f"{name}={getattr(settings, name)!r} must be a whole number at least 1")


def _of_lists(X: Any, y: Any) -> TaskRows:
    matrices, vectors = [_floats("X", x) for x in X], [_floats("y", v) for v in y]
    if len(matrices) != len(vectors) or not matrices:
        raise ValueError(
            f"X and y must have a matrix and a vector for each task, got {len(matrices)} and {len(vectors)}; for one "
            "matrix of all rows pass `task`"
        )
    for number, (x, v) in enumerate(zip(matrices, vectors, strict=True)):
        if x.ndim != 2 or v.shape != x.shape[:1]:
            raise ValueError(f"task {number} has X of shape {x.shape} and y of shape {v.shape}, wanted (n, d) and (n,)")
        if x.shape[1] != matrices[0].shape[1]:
            raise ValueError(f"X of task {number} has {x.shape[1]} columns, that of task 0 has {matrices[0].shape[1]}")
        if not x.size:
            raise ValueError(f"task {number} is empty, its X has shape {x.shape}; leave it out")
    owner = torch.repeat_interleave(torch.tensor([len(x) for x in matrices]))
    rows, labels = (torch.from_numpy(np.concatenate(each)) for each in (matrices, vectors))
    return _finite(TaskRows(rows, labels, owner, list(range(len(matrices)))))


def _finite(rows: TaskRows) -> TaskRows:
    check_finite("X", rows.features)
    check_finite("y", rows.y)
    return rows


def _floats(name: str, values: Any) -> NDArray[np.float64]:
    try:
        # Torch shares no memory that is read backwards or only.
        return np.array(values, dtype=np.float64, order="C")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must hold numbers: {error}") from error
