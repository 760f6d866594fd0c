"""What an estimator's probabilities are calibrated on: rows held out, or scores out of fold.

A model is sure of the rows it was trained on, so that a calibration on their scores makes probabilities of new rows too
sure. Where no rows are held out, cross-fitting has scores of rows that a model has not seen all the same: up to five
stratified folds, each scored by a refit on the others at the same settings. The model on all rows is kept; the order of
its scores is untouched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from equipoise.core.calibration import fit_platt, fit_scaling
from equipoise.core.validate import check_choice, warn_once

Array = NDArray[Any]
Calibration = Literal["cross_fit", "held_out"] | None

_FOLDS = 5


def check_calibration(calibration: Calibration) -> None:
    """Raise `ValueError` unless the setting is one of those that there are."""
    if calibration is not None:
        check_choice("calibration", calibration, ("cross_fit", "held_out"))


def calibration_sample(
    calibration: Calibration,
    codes: Array,
    held: Array,
    seed: int,
    score: Callable[[Array], Tensor],
    refit: Callable[[Array, Array], Tensor],
) -> tuple[Tensor, Array]:
    """Scores to calibrate on, and the rows that they are of.

    Args:
        calibration: "cross_fit" or "held_out"; see `EquipoiseClassifier`.
        codes: (n,) class indices of all rows.
        held: rows held out, if any.
        seed: of the folds.
        score: rows to their scores by the model.
        refit: (rows to train on, rows to score) to the latter's scores by another model.

    >>> codes = np.array([0, 0, 1])
    >>> score = lambda rows: torch.zeros(len(rows))
    >>> calibration_sample("cross_fit", codes, np.array([2]), 0, score, lambda kept, left_out: score(left_out))
    (tensor([0.]), array([2]))
    """
    if len(held):
        return score(held), held
    rows = np.arange(len(codes))
    reason = "calibration='held_out' without rows held out"
    if calibration == "cross_fit":
        least = int(np.bincount(codes).min())
        reason = "a class has one row, which cannot be both trained on and left out"
        if least >= 2:
            try:
                return _out_of_fold(codes, min(_FOLDS, least), seed, refit), rows
            except ValueError as error:
                reason = f"a part of the rows cannot be trained on ({error})"
    warn_once(f"probabilities are calibrated on training scores and will be too sure: {reason}")
    return score(rows), rows


def _out_of_fold(codes: Array, folds: int, seed: int, refit: Callable[[Array, Array], Tensor]) -> Tensor:
    splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(codes, codes)
    scored = [(left_out, refit(kept, left_out)) for kept, left_out in splits]
    order = np.argsort(np.concatenate([left_out for left_out, _ in scored]))
    return torch.cat([scores for _, scores in scored])[torch.from_numpy(order)]


def fit_calibration(scores: Tensor, codes: Array, weight: Array | None, *, shift: bool) -> tuple[float, Array]:
    """The scale and the offset, () for scores (n,) and (C,) for scores (n, C), that make probabilities of scores.

    >>> scale, offset = fit_calibration(torch.tensor([0.0, 1.0]), np.array([0, 1]), None, shift=True)
    >>> scale > 0, offset.shape
    (True, ())
    """
    target, count = torch.from_numpy(codes), None if weight is None else torch.from_numpy(weight)
    if scores.ndim == 1:
        scale, offset = fit_platt(scores, target, sample_weight=count)
        return scale, np.asarray(offset)
    scale, offsets = fit_scaling(scores, target, shift=shift, sample_weight=count)
    return scale, offsets.double().numpy()
