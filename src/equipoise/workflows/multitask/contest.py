"""Ways to learn many linear tasks, each with its best setting on the rows to choose by, of grids of one size."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from equipoise.core.curves.intervals import Interval
from equipoise.crowd import TFCL, MultiTaskLinear
from equipoise.ranking import MultiTaskAUC
from equipoise.ranking.metrics.binary_areas import auroc
from equipoise.workflows.errors import InputError
from equipoise.workflows.multitask.table import Scaled, TaskTable

METHODS = ("alone", "pooled", "lasso", "trace", "tfcl", "multitask-auc")
LEVEL, _DRAWS = 0.95, 2000
_PENALTIES = {"alone": "ridge", "pooled": "ridge", "lasso": "lasso", "trace": "trace"}
Vector = NDArray[np.float64]


class Fitted(NamedTuple):
    """A fitted model.

    Attributes:
        model: the estimator.
        weight: (d, tasks).
    """

    model: TFCL | MultiTaskLinear | MultiTaskAUC
    weight: Vector


@dataclass(frozen=True, eq=False)
class Contender:
    """A way to learn, with its best setting.

    Attributes:
        name: of it.
        setting: that was best on the rows to choose by.
        value: of the metric there, the mean over tasks.
        test: (tasks,) the metric on the rows to judge by; NaN where it is not defined.
        fitted: the model, of the rows to learn from and to choose by.
    """

    name: str
    setting: Mapping[str, Any]
    value: float
    test: Vector
    fitted: Fitted


def grid(name: str, blocks: Sequence[int], loss: str, tasks: int) -> list[dict[str, Any]]:
    """At most eight settings of a way to learn."""
    if name in _PENALTIES:
        low, high = {"lasso": (-4, 0), "trace": (-3, 1)}.get(name, (-3, 2))
        return [
            {"penalty": _PENALTIES[name], "strength": float(s), "loss": loss}
            for s in np.geomspace(10.0**low, 10.0**high, 8)
        ]
    each = 8 // max(len(blocks), 1) or 1
    if name == "tfcl":
        apart = np.geomspace(0.1, 2.0, max(each // 2, 1)).tolist()
        pairs = [(alpha1, ridge) for alpha1 in apart for ridge in (0.7, 0.03)][:each]
        return [
            {"k": k, "alpha1": alpha1, "alpha2": ridge, "ridge": ridge, "loss": loss}
            for k in blocks
            for alpha1, ridge in pairs
        ]
    kappa = [min(k, max(tasks - 1, 1)) for k in (1, 4)]
    return [
        {"lambda_theta": theta, "lambda_group": group, "lambda_personal": 0.3, "kappa": k}
        for k in kappa
        for theta in (0.1, 1.0)
        for group in (1.0, 10.0)
    ]


def compete(
    name: str,
    table: TaskTable,
    learned: Scaled,
    whole: Scaled,
    blocks: Sequence[int],
    progress: Callable[[str], None],
) -> Contender:
    """The best setting on the rows to choose by, fitted again with them, and judged on the rest."""
    loss = "squared" if table.classes is None else "pairwise_square"
    choosing, best, chosen = table.part == 1, -math.inf, None
    for setting in grid(name, blocks, loss, len(table.names)):
        progress(f"{name}: {_words(setting)}")
        found = fit(name, setting, table, learned, table.part == 0)
        value = _mean(judged(found.weight, table, learned, choosing))
        if value > best:
            best, chosen = value, setting
    if chosen is None:
        raise InputError(
            f"no task has both {table.classes[0]!r} and {table.classes[1]!r} among the rows to choose by; the rarer "
            "one needs more rows"
            if table.classes is not None
            else f"{name} has no finite value on the rows to choose by with any setting; leave it out of --methods"
        )
    progress(f"{name}: fitting the best setting again")
    final = fit(name, chosen, table, whole, table.part < 2)
    return Contender(name, chosen, best, judged(final.weight, table, whole, table.part == 2), final)


def fit(name: str, setting: Mapping[str, Any], table: TaskTable, given: Scaled, rows: NDArray[np.bool_]) -> Fitted:
    """A model of some rows."""
    x, y, task = given.x[rows], given.y[rows], table.task[rows]
    count = len(table.names)
    with warnings.catch_warnings():
        # That steps run out, or that a rank is free: both are seen in what the setting is worth.
        warnings.simplefilter("ignore", UserWarning)
        if name == "pooled":
            one = MultiTaskLinear(**setting).fit(x, y, np.zeros(len(y), dtype=np.int64))
            return Fitted(one, np.repeat(one.coef_, count, 1))
        if name == "multitask-auc":
            ranker = MultiTaskAUC(**setting, accelerate=True).fit(x, y, task)
            place = {user: k for k, user in enumerate(ranker.users_)}
            return Fitted(ranker, ranker.W_[:, [place[k] for k in range(count)]])
        model = (TFCL if name == "tfcl" else MultiTaskLinear)(**setting).fit(x, y, task)
        order = [model.tasks_.index(k) for k in range(count)]
        return Fitted(model, model.coef_[:, order])


def judged(weight: Vector, table: TaskTable, given: Scaled, rows: NDArray[np.bool_]) -> Vector:
    """(tasks,) the AUROC of each task; of a number the share of the target's variance about its mean that is explained.

    The mean is that of training rows, and the spread that of all tasks, so that a task is not judged by its own luck.
    """
    found = np.full(len(table.names), np.nan)
    scores = np.einsum("nd,dn->n", given.x[rows], weight[:, table.task[rows]])
    y, task = given.y[rows], table.task[rows]
    for number in range(len(found)):
        mine = task == number
        if not mine.any():
            continue
        if table.classes is None:
            found[number] = 1 - float(((y[mine] - scores[mine]) ** 2).mean())
        elif 0 < y[mine].sum() < mine.sum():
            found[number] = float(auroc(torch.from_numpy(scores[mine]), torch.from_numpy(y[mine].astype(np.int64))))
    return found


def over_tasks(values: Vector, seed: int) -> Interval:
    """The mean over tasks with a percentile interval of tasks drawn anew."""
    known = values[np.isfinite(values)]
    if not len(known):
        return Interval(math.nan, math.nan, math.nan)
    generator = np.random.default_rng(seed)
    means = known[generator.integers(len(known), size=(_DRAWS, len(known)))].mean(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(known.mean()), float(low), float(high))


def _mean(values: Vector) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else -math.inf


def _words(setting: Mapping[str, Any]) -> str:
    numbers = {key: value for key, value in setting.items() if not isinstance(value, str)}
    return ", ".join(f"{key} {value:.3g}" for key, value in numbers.items())
