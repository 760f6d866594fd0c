"""One ranking with ties for everybody: the most likely scores and threshold of all answers together."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from numpy.typing import NDArray
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, NonNegative, Scores
from equipoise.core.validate import warn_once
from equipoise.crowd.partial_ranking.buckets import tied_buckets
from equipoise.crowd.partial_ranking.split_lbi import ThresholdMin
from equipoise.crowd.partial_ranking.tie_model import Link, Rule, Threshold, log_probabilities, tie_prediction
from equipoise.crowd.partial_ranking.tie_table import TieTable
from equipoise.data.comparisons.answers import Comparisons

_SHOWN = 5


class TieMLE:
    """The threshold model with one set of scores and one threshold: the consensus, and the baseline of personal
    rankings.

    Args:
        link: noise of the answers.
        ridge: weight of |scores|² / 2 beside the mean loss. It keeps an item that always wins at a finite score, and
            the scores of every group of linked items around 0; 0 leaves both to chance.
        threshold_min: least threshold; without ties in the data the threshold goes there.
        max_iterations: of L-BFGS.

    Attributes:
        scores_: (items,) after `fit`; 0 for an item that was never compared.
        threshold_: common threshold.
        loss_: mean loss of the answers.
        identified_: (items,) whether an item was compared at all.
        components_: (items,) the number of the group of items that comparisons link.

    Raises:
        ValueError: on a setting out of range.

    Equations (3) to (6) of the paper without personal deviations, which its tables call MLE.

    >>> said = Comparisons.from_columns(None, [0, 0, 1, 1, 0], [1, 2, 2, 2, 1], [1, 1, 1, 0, -1])
    >>> model = TieMLE().fit(said)
    >>> model.scores_.argsort(descending=True).tolist(), model.predict(torch.tensor([0]), torch.tensor([2])).tolist()
    ([0, 1, 2], [1])
    """

    scores_: Float[Tensor, " items"]
    threshold_: float
    loss_: float
    identified_: Bool[Tensor, " items"]
    components_: Integer[Tensor, " items"]

    @checked
    def __init__(
        self,
        link: Link = "logistic",
        *,
        ridge: NonNegative = 1e-6,
        threshold_min: ThresholdMin = 1e-3,
        max_iterations: Count = 1000,
    ) -> None:
        self.link: Link = link
        self.ridge, self.threshold_min, self.max_iterations = ridge, threshold_min, max_iterations

    @checked
    def fit(self, comparisons: Comparisons) -> TieMLE:
        """Find the scores and the threshold, by L-BFGS within the bound of the threshold.

        Raises:
            ValueError: if all answers are ties, under which the threshold has no limit.
        """
        from scipy.optimize import minimize

        if comparisons.ties == len(comparisons):
            raise ValueError("all comparisons are ties, which say nothing of an order; the threshold has no limit")
        self.identified_ = identified(comparisons)
        self.components_ = comparisons.components()
        warn_of_components(comparisons, self.identified_, self.components_)
        together = replace(
            comparisons, annotator=torch.zeros_like(comparisons.annotator), num_annotators=1, annotator_names=None
        )
        table = TieTable(together, self.link)

        def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            row = torch.from_numpy(point)[None]
            penalty = 0.5 * self.ridge * float(row[0, :-1].square().sum())
            gradient = table.gradient(row)[0]
            gradient[:-1] += self.ridge * row[0, :-1]
            return table.loss(row) + penalty, gradient.numpy()

        start = np.zeros(comparisons.num_items + 1)
        # Under uniform noise a threshold of 1 would leave nothing but ties at equal scores.
        start[-1] = max(0.5 if self.link == "uniform" else 1.0, self.threshold_min)
        bounds = [(None, None)] * comparisons.num_items + [(self.threshold_min, None)]
        options = {"maxiter": self.max_iterations, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 20}
        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        best = torch.from_numpy(np.asarray(found.x))
        self.scores_, self.threshold_ = best[:-1].clone(), float(best[-1])
        self.loss_ = table.loss(best[None])
        return self

    @property
    def common(self) -> Float[Tensor, " width"]:
        """Scores and threshold in one row."""
        return torch.cat([self.scores_, self.scores_.new_tensor([self.threshold_])])

    def predict(
        self, item_i: Integer[Tensor, " n"], item_j: Integer[Tensor, " n"], *, rule: Rule = "threshold"
    ) -> Integer[Tensor, " n"]:
        """The answer to expect, 1, 0 or −1; see `tie_prediction`."""
        return tie_prediction(*self._at(item_i, item_j), rule, self.link)

    def predict_proba(self, item_i: Integer[Tensor, " n"], item_j: Integer[Tensor, " n"]) -> Float[Tensor, "n 3"]:
        """Probabilities in the columns −1, 0, 1."""
        return log_probabilities(*self._at(item_i, item_j), self.link).exp()

    def rank(self) -> list[list[int]]:
        """Items in buckets, the best first; items of a bucket are all within the threshold of its best one.

        Items that were never compared are left out.
        """
        self._check_fitted()
        return tied_buckets(self.scores_, self.threshold_, self.identified_)

    def save(self, path: str | Path) -> None:
        """Write the settings and what was found as JSON."""
        self._check_fitted()
        settings = {name: getattr(self, name) for name in ("link", "ridge", "threshold_min", "max_iterations")}
        found = {name: getattr(self, f"{name}_").tolist() for name in ("scores", "identified", "components")}
        about = {"settings": settings, **found, "threshold": self.threshold_, "loss": self.loss_}
        Path(path).write_text(json.dumps(about, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> TieMLE:
        """Read what `save` wrote.

        Raises:
            ValueError: if the file does not hold a fitted model.
        """
        try:
            about = json.loads(Path(path).read_text(encoding="utf-8"))
            found = cls(**about["settings"])
            found.scores_ = torch.tensor(about["scores"], dtype=torch.float64)
            found.identified_ = torch.tensor(about["identified"], dtype=torch.bool)
            found.components_ = torch.tensor(about["components"], dtype=torch.long)
            found.threshold_, found.loss_ = float(about["threshold"]), float(about["loss"])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not hold a fitted model: {error}") from error
        if not len(found.scores_) == len(found.identified_) == len(found.components_):
            raise ValueError(f"{path} does not hold a fitted model: its lists are of different lengths")
        return found

    def _check_fitted(self) -> None:
        if not hasattr(self, "scores_"):
            raise RuntimeError("the model is not fitted; call fit(comparisons) first")

    def _at(self, item_i: Tensor, item_j: Tensor) -> tuple[Scores, Threshold]:
        self._check_fitted()
        for name, items in (("item_i", item_i), ("item_j", item_j)):
            check_items(name, items, len(self.scores_))
        diff = self.scores_[item_i.long()] - self.scores_[item_j.long()]
        return diff, torch.full_like(diff, self.threshold_)


def check_items(name: str, items: Tensor, num_items: int) -> None:
    """`KeyError` for the first item that is not there."""
    bad = (items < 0) | (items >= num_items)
    if bad.any():
        raise KeyError(f"{name} holds {int(items[bad][0])}, which is none of the {num_items} items of the model")


def identified(comparisons: Comparisons) -> Bool[Tensor, " items"]:
    """Which items were compared at all."""
    sides = torch.cat([comparisons.left, comparisons.right])
    return torch.bincount(sides, minlength=comparisons.num_items) > 0


def warn_of_components(comparisons: Comparisons, known: Tensor, components: Tensor) -> None:
    """Say which groups of items were never compared with each other."""
    groups = components[known].unique().tolist()
    if len(groups) < 2:
        return
    shown = []
    for group in groups[:_SHOWN]:
        members = ((components == group) & known).nonzero()[:, 0].tolist()
        names = comparisons.item_names
        told = ", ".join(str(item if names is None else names[item]) for item in members[:_SHOWN])
        shown.append(f"{group}: {told}" + (f" and {len(members) - _SHOWN} more" if len(members) > _SHOWN else ""))
    more = f"; and {len(groups) - _SHOWN} more" if len(groups) > _SHOWN else ""
    warn_once(
        f"the items fall into {len(groups)} groups that were never compared with each other "
        f"({'; '.join(shown)}{more}); scores of different groups cannot be compared"
    )
