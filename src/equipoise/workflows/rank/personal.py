"""Everybody's own partial ranking: from a path where people differ, else that of all together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from equipoise.crowd import SplitLBIRanker, SplitLBISettings, TieMLE
from equipoise.crowd.partial_ranking.buckets import tied_buckets
from equipoise.data import Comparisons, comparison_folds
from equipoise.workflows.errors import InputError
from equipoise.workflows.rank.request import RankRequest


@dataclass(frozen=True)
class Personal:
    """Everybody's own rankings.

    Attributes:
        ranker: with the path; None where nobody differs from the others.
        together: one ranking with ties, which answers for who has none; None where all answers are ties.
        people: numbers of the annotators who have a row of `scores`.
        scores: (people, items + 1) scores, and the threshold last.
        known: (items,) whether an item was compared at all.
    """

    ranker: SplitLBIRanker | None
    together: TieMLE | None
    people: tuple[int, ...]
    scores: Tensor
    known: Tensor

    @property
    def until(self) -> float:
        """The time at which the path is read for who has left the consensus; −∞ without a path."""
        if self.ranker is None:
            return -math.inf
        return float(self.ranker.path_.times[self.ranker.time_index_["sparse"]])

    @property
    def leaving(self) -> dict[int, tuple[float, int, float]]:
        """Annotator → when they leave the consensus, as number how much, and the length of their deviations."""
        if self.ranker is None:
            return {}
        path = self.ranker.path_
        times = path.entry_time
        place = torch.argsort(torch.argsort(times, stable=True)) + 1
        length = path.personal_norm[self.ranker.time_index_["dense"]]
        return {
            person: (float(times[row]), int(place[row]) if math.isfinite(float(times[row])) else 0, float(length[row]))
            for row, person in enumerate(self.people)
        }

    def rankings(self) -> Iterator[tuple[int, list[list[int]], Tensor]]:
        """Each annotator with their buckets of tied items, the best first, and their scores."""
        for person, row in zip(self.people, self.scores, strict=True):
            yield person, tied_buckets(row[:-1], float(row[-1]), self.known), row


def find_personal(
    said: Comparisons, request: RankRequest, notice: Callable[[str], None], progress: Callable[[str], None]
) -> Personal:
    """The path with its times chosen on held-out answers; where there can be none, a notice says why."""
    known = torch.bincount(torch.cat([said.left, said.right]), minlength=said.num_items) > 0
    nobody = torch.zeros(0, said.num_items + 1, dtype=torch.float64)
    if said.ties == len(said):
        notice("all answers are ties, so that nobody has a ranking of their own")
        return Personal(None, None, (), nobody, known)
    enough = (said.per_annotator >= request.min_comparisons).nonzero()[:, 0].tolist()
    together = TieMLE().fit(said)
    answered = (said.per_annotator > 0).nonzero()[:, 0].tolist()
    common = together.common.expand(len(answered), -1)
    everybody = Personal(None, together, tuple(answered), common, known)
    if len(enough) < 2:
        why = (
            "there is one annotator"
            if len(answered) == 1
            else (f"fewer than two annotators made --min-comparisons {request.min_comparisons} answers")
        )
        notice(f"{why}, so that there is nobody to compare with: own rankings are that of all together, with its ties")
        return everybody
    parts = len(comparison_folds(said, request.folds, seed=request.seed).unique())
    if parts < request.folds:
        raise InputError(
            f"folds={request.folds} are too many for {len(said):,} answers: {request.folds - parts:,} of them would "
            "hold no answer; give fewer --folds"
        )
    settings = SplitLBISettings(
        num_times=request.num_times, time_ratio=request.time_ratio, min_comparisons=request.min_comparisons
    )
    try:
        ranker = SplitLBIRanker(settings).fit_cv(
            said,
            folds=request.folds,
            metric=request.metric,  # type: ignore[arg-type]
            seed=request.seed,
            checkpoint=_place(request.checkpoints),
            progress=progress,
        )
    except ValueError as error:
        if "no user differs" not in str(error) and "all comparisons are ties" not in str(error):
            raise
        notice("nobody answers unlike the others, so that own rankings are that of all together, with its ties")
        return everybody
    if ranker.time_index_["dense"] == len(ranker.path_) - 1:
        notice("held-out answers choose the last time of the path, and might a later one: give a larger --time-ratio")
    scores = ranker.path_.scores(ranker.time_index_["dense"])
    return Personal(ranker, together, tuple(enough), scores, known)


def _place(checkpoints: Path | None) -> Path | None:
    return None if checkpoints is None else checkpoints / "path"
