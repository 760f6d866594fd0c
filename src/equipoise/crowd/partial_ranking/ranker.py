"""Personal rankings with ties in one object: fitted on comparisons, asked for answers, rankings and who is abnormal."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, NonNegative, NumClasses, Positive, Range, Whole
from equipoise.core.validate import warn_once
from equipoise.crowd.partial_ranking.buckets import tied_buckets
from equipoise.crowd.partial_ranking.checkpoint import PathCheckpoint
from equipoise.crowd.partial_ranking.path import Estimate, SplitPath
from equipoise.crowd.partial_ranking.path_run import Watch, split_lbi_path
from equipoise.crowd.partial_ranking.selection import CrossValidation, Judge, cross_validate
from equipoise.crowd.partial_ranking.split_lbi import Scale, SplitState, ThresholdMin
from equipoise.crowd.partial_ranking.tie_mle import identified
from equipoise.crowd.partial_ranking.tie_model import Link, Rule, log_probabilities, tie_prediction
from equipoise.data.comparisons.answers import Comparisons

Names: TypeAlias = Sequence[int] | Sequence[str] | Int[Tensor, " n"]
_FILE = "ranker.json"
_SHOWN = 5


class Decomposition(NamedTuple):
    """Deviations from the consensus, in three parts that sum to the dense ones; a column per item, the threshold last.

    Attributes:
        abnormal: of who is in the support.
        personal: the others' that are at least as large as the noise.
        random: the rest.
    """

    abnormal: Float[Tensor, "users width"]
    personal: Float[Tensor, "users width"]
    random: Float[Tensor, "users width"]


@checked
@dataclass(frozen=True, kw_only=True)
class SplitLBISettings:
    """Settings of `SplitLBIRanker`.

    Attributes:
        link: noise of the answers.
        nu: ν, how far dense deviations may be from the sparse ones.
        kappa: κ, the damping.
        num_times: how often the path is recorded.
        time_ratio: the last recorded time over the first.
        scale: "per_user" or "mean", see `split_lbi_step`.
        step: α; None finds it.
        threshold_min: least threshold of anybody.
        support_tolerance: a group of Γ that is no longer counts as 0.
        min_comparisons: who made fewer is left out, and answered by the consensus; the authors' code leaves out who
            made six or fewer.
    """

    link: Link = "logistic"
    nu: Positive = 1.0
    kappa: Positive = 10.0
    num_times: Count = 50
    time_ratio: Annotated[float, Range(1, low_open=True)] = 20.0
    scale: Scale = "per_user"
    step: Positive | None = None
    threshold_min: ThresholdMin = 1e-3
    support_tolerance: NonNegative = 1e-6
    min_comparisons: Count = 7


class SplitLBIRanker:
    """A consensus, each person's own partial ranking, and who does not follow the crowd, from one path.

    Users and items are asked for by name where the comparisons had names, else by index. A user who was not fitted is
    answered by the consensus, with a warning.

    Args:
        settings: all settings.

    Attributes:
        path_: the path, its rows the users of `users_`.
        users_: names or indices of the users who were fitted.
        items_: names or indices of the items.
        identified_: (items,) whether an item was compared at all.
        time_index_: which recorded time "dense" and "sparse" are read at; set by `fit_cv`, and to be changed at will.
        cross_validation_: scores of every time, after `fit_cv`.

    >>> from equipoise.data import simulate_partial_rankings
    >>> world = simulate_partial_rankings(8, 5, comparisons_per_user=(40, 60))
    >>> model = SplitLBIRanker(SplitLBISettings(num_times=6)).fit(world.comparisons)
    >>> model.predict([0, 3], [1, 2], [2, 4]).shape, len(model.rank(0)) >= 1
    (torch.Size([2]), True)
    """

    path_: SplitPath
    users_: tuple[Hashable, ...]
    items_: tuple[Hashable, ...]
    identified_: Bool[Tensor, " items"]
    time_index_: dict[Estimate, int]
    cross_validation_: CrossValidation

    def __init__(self, settings: SplitLBISettings | None = None) -> None:
        self.settings = settings or SplitLBISettings()

    @checked
    def fit(
        self,
        comparisons: Comparisons,
        *,
        warm_start: SplitPath | None = None,
        keep_dense: bool = True,
        watch: Watch | None = None,
    ) -> SplitLBIRanker:
        """Run the path on all comparisons; estimates are those of its last time.

        Args:
            comparisons: who said what.
            warm_start: an earlier path on the same comparisons to go on from, to a larger `time_ratio`.
            keep_dense: keep everybody's dense deviations at all times, as the choice of another time needs.
            watch: called with the number of each recorded time and the state there.

        Raises:
            ValueError: if nobody made enough comparisons, or all are ties.

        Warns:
            UserWarning: of users who are left out, and of groups of items that were never compared with each other.
        """
        kept = self._prepare(comparisons)
        self.path_ = self._path(kept, resume=warm_start, keep_dense=keep_dense, watch=watch)
        self.time_index_ = dict.fromkeys(("dense", "sparse"), len(self.path_) - 1)
        return self

    @checked
    def fit_cv(
        self,
        comparisons: Comparisons,
        *,
        folds: NumClasses = 5,
        metric: Judge = "micro",
        seed: Whole = 0,
        checkpoint: str | Path | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> SplitLBIRanker:
        """Run the path on all comparisons, and choose its times on held-out ones.

        Folds are by user and stratified by the answer; the path of each is recorded at the times of the whole. Dense
        and sparse estimates have times of their own, the first of the best.

        Args:
            comparisons: who said what.
            folds: how many.
            metric: "micro", the share of right answers, "macro", the mean of the F1 of the three answers, or
                "likelihood".
            seed: of the folds.
            checkpoint: a folder in which the path, and what was found on each fold, are kept as soon as they are
                there, and where an interrupted call finds them. With a larger `time_ratio` the path goes on from its
                end, and the folds are run anew.
            progress: told what is being done.

        Raises:
            ValueError: as `fit`; if the checkpoint is of other comparisons or settings.
        """
        kept, chosen = self._prepare(comparisons), self.settings
        settings = {name: value for name, value in asdict(chosen).items() if name != "time_ratio"}
        store = None
        if checkpoint is not None:
            store = PathCheckpoint(checkpoint, kept, {**settings, "folds": folds, "metric": metric, "seed": seed})
        before = None if store is None else store.path(chosen.time_ratio)
        if before is not None and float(before.times[-1]) >= (1 - 1e-9) * chosen.time_ratio * float(before.times[0]):
            self.path_ = before
        else:
            watch = _told(progress, "the path", chosen.num_times)
            self.path_ = self._path(kept, resume=before, keep_dense=True, watch=watch)
            if store is not None:
                store.keep_path(self.path_)

        def run(number: int, part: Comparisons, watch: Watch) -> None:
            told = _told(progress, f"fold {number + 1} of {folds}", len(self.path_))

            def both(index: int, state: SplitState) -> None:
                watch(index, state)
                told(index, state)

            self._path(part, times=self.path_.times, keep_dense=False, watch=both)

        hooks: dict[str, Any] = {} if store is None else {"known": store.fold, "found": store.keep_fold}
        self.cross_validation_ = cross_validate(
            kept,
            self.path_.times,
            run,
            folds=folds,
            metric=metric,
            seed=seed,
            tolerance=chosen.support_tolerance,
            link=chosen.link,
            **hooks,
        )
        self.time_index_ = self.cross_validation_.best()
        return self

    def scores(self, user: int | str, *, estimate: Estimate = "dense") -> tuple[Float[Tensor, " items"], float]:
        """A user's scores and threshold; of a user who was not fitted, those of the consensus."""
        row = self._rows([user], estimate)[0]
        return row[:-1], float(row[-1])

    @property
    def consensus_(self) -> Float[Tensor, " width"]:
        """Scores, and the threshold last, of the consensus at the time of the dense estimate."""
        return self._fitted().common[self.time_index_["dense"]]

    @property
    def personal_(self) -> Float[Tensor, "users width"]:
        """Dense deviations of the users of `users_`, the threshold last."""
        path, place = self._fitted(), self.time_index_["dense"]
        return path.scores(place) - path.common[place]

    @property
    def entry_time_(self) -> Float[Tensor, " users"]:
        """When each of `users_` left the consensus; infinite for who stayed."""
        return self._fitted().entry_time

    def predict(
        self, users: Names, items_i: Names, items_j: Names, *, estimate: Estimate = "dense", rule: Rule = "threshold"
    ) -> Int[Tensor, " n"]:
        """What each user would say of two items: 1 for the first, −1 for the second, 0 for a tie.

        Args:
            users: (n,) names or indices.
            items_i: (n,) likewise.
            items_j: (n,) likewise.
            estimate: "dense", by everybody's own scores; "sparse", where only users in the support have their own.
            rule: as in `tie_prediction`.

        Raises:
            KeyError: for an item that the comparisons did not have.
            ValueError: if the lengths differ.
        """
        return tie_prediction(*self._compared(users, items_i, items_j, estimate), rule, self.settings.link)

    def predict_proba(
        self, users: Names, items_i: Names, items_j: Names, *, estimate: Estimate = "dense"
    ) -> Float[Tensor, "n 3"]:
        """Probabilities of −1, 0 and 1, in this order; see `predict`."""
        return log_probabilities(*self._compared(users, items_i, items_j, estimate), self.settings.link).exp()

    def rank(self, user: int | str, *, estimate: Estimate = "dense") -> list[list[Hashable]]:
        """A user's items in buckets, the best first; items of a bucket are all within the threshold of its best one.

        The last item of one bucket and the first of the next may be tied as well. Items that were never compared are
        left out.
        """
        scores, width = self.scores(user, estimate=estimate)
        return [[self.items_[place] for place in bucket] for bucket in tied_buckets(scores, width, self.identified_)]

    @checked
    def abnormal_users(self, top: Fraction | None = None) -> list[Hashable]:
        """Users who do not follow the crowd, those who left the consensus first at the beginning.

        Args:
            top: share of the fitted users to name; by default those in the support at the time of the sparse estimate.
        """
        path = self._fitted()
        order = path.entry_time.argsort(stable=True)
        gone = path.entry_time[order].isfinite()
        if top is not None:
            chosen = order[gone][: max(1, round(top * len(order)))]
        else:
            chosen = order[path.support[self.time_index_["sparse"]][order]]
        return [self.users_[place] for place in chosen.tolist()]

    @checked
    def decomposition(self, threshold: NonNegative) -> Decomposition:
        """The dense deviations as abnormal, personal and random parts.

        Args:
            threshold: deviations of users outside the support that are at least as large are personal, smaller ones
                random. The paper names none.
        """
        path, place = self._fitted(), self.time_index_["dense"]
        whole = self.personal_
        own = path.support[place][:, None]
        large = whole.abs() >= threshold
        parts = (whole * own, whole * (~own & large), whole * (~own & ~large))
        return Decomposition(*parts)

    def save(self, folder: str | Path) -> None:
        """Write the path, the settings and the names: JSON and safetensors."""
        self._fitted().save(folder)
        about = {
            "settings": asdict(self.settings),
            "users": self.users_,
            "items": self.items_,
            "identified": self.identified_.tolist(),
            "time_index": self.time_index_,
        }
        (Path(folder) / _FILE).write_text(json.dumps(about, indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> SplitLBIRanker:
        """Read what `save` wrote.

        Raises:
            ValueError: if the folder does not hold a ranker, or its files do not go together.
        """
        path = SplitPath.load(folder)
        try:
            about = json.loads((Path(folder) / _FILE).read_text(encoding="utf-8"))
            found = cls(SplitLBISettings(**about["settings"]))
            found.users_, found.items_ = tuple(about["users"]), tuple(about["items"])
            found.identified_ = torch.tensor(about["identified"])
            found.time_index_ = {name: int(about["time_index"][name]) for name in ("dense", "sparse")}
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder} does not hold a ranker: {error}") from error
        sizes = len(found.users_), len(found.items_) + 1, len(found.identified_) + 1
        if sizes != (path.num_users, path.common.shape[1], path.common.shape[1]):
            raise ValueError(f"{folder} does not hold a ranker: its names and its path are of different sizes")
        found.path_ = path
        found._index()
        return found

    def _fitted(self) -> SplitPath:
        if not hasattr(self, "path_"):
            raise RuntimeError("the ranker is not fitted; call fit(comparisons) or fit_cv(comparisons) first")
        return self.path_

    def _prepare(self, comparisons: Comparisons) -> Comparisons:
        """The comparisons of users who made enough, renumbered; and the names of all."""
        enough = comparisons.per_annotator >= self.settings.min_comparisons
        few = int((~enough & (comparisons.per_annotator > 0)).sum())
        if not enough.any():
            raise ValueError(f"no user made min_comparisons={self.settings.min_comparisons} comparisons or more")
        if few:
            warn_once(
                f"{few} users made fewer than min_comparisons={self.settings.min_comparisons} comparisons; they are "
                "left out, and answered by the consensus"
            )
        users = enough.nonzero()[:, 0]
        names, items = comparisons.annotator_names, comparisons.item_names
        self.users_ = tuple(users.tolist() if names is None else (names[user] for user in users.tolist()))
        self.items_ = tuple(range(comparisons.num_items)) if items is None else items
        kept = comparisons.take(enough[comparisons.annotator].nonzero()[:, 0])
        self.identified_ = identified(kept)
        self._index()
        number = enough.long().cumsum(0) - 1
        return replace(kept, annotator=number[kept.annotator], num_annotators=len(users), annotator_names=None)

    def _index(self) -> None:
        self._user_row = {name: row for row, name in enumerate(self.users_)}
        self._item_row = {name: row for row, name in enumerate(self.items_)}

    def _path(
        self,
        comparisons: Comparisons,
        *,
        keep_dense: bool,
        watch: Watch | None,
        times: Tensor | None = None,
        resume: SplitPath | None = None,
    ) -> SplitPath:
        chosen = asdict(self.settings)
        del chosen["min_comparisons"]
        return split_lbi_path(comparisons, times=times, resume=resume, keep_dense=keep_dense, watch=watch, **chosen)

    def _rows(self, users: Sequence[Hashable], estimate: Estimate) -> Float[Tensor, "n width"]:
        """Scores and thresholds of users, each the consensus where a user was not fitted."""
        path, place = self._fitted(), self.time_index_[estimate]
        rows = [self._user_row.get(user, -1) for user in users]
        strangers = list(dict.fromkeys(str(user) for user, row in zip(users, rows, strict=True) if row < 0))
        if strangers:
            more = f" and {len(strangers) - _SHOWN} more" if len(strangers) > _SHOWN else ""
            warn_once(
                f"users that were not fitted are answered by the consensus: {', '.join(strangers[:_SHOWN])}{more}"
            )
        # The consensus stands behind the last user, where −1 points.
        return torch.cat([path.scores(place, estimate), path.common[place][None]])[torch.tensor(rows, dtype=torch.long)]

    def _compared(
        self, users: Names, items_i: Names, items_j: Names, estimate: Estimate
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        given = {"users": users, "items_i": items_i, "items_j": items_j}
        lists = {name: each.tolist() if isinstance(each, Tensor) else list(each) for name, each in given.items()}
        sizes = {name: len(each) for name, each in lists.items()}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"users, items_i and items_j must be of one length, got {sizes}")
        rows = self._rows(lists["users"], estimate)
        places = []
        for name in ("items_i", "items_j"):
            unknown = [item for item in lists[name] if item not in self._item_row]
            if unknown:
                raise KeyError(
                    f"{name} holds {unknown[0]!r}, which is none of the {len(self.items_)} items of the ranker"
                )
            places.append(torch.tensor([self._item_row[item] for item in lists[name]], dtype=torch.long))
        every = torch.arange(len(rows))
        return rows[every, places[0]] - rows[every, places[1]], rows[:, -1]


def _told(progress: Callable[[str], None] | None, words: str, times: int) -> Watch:
    """Tells of every recorded time."""

    def watch(index: int, state: SplitState) -> None:
        if progress is not None:
            progress(f"{words}: time {index + 1} of {times}")

    return watch
