"""Split a log, train recommenders, judge them by full ranking, and write lists for everybody."""

from __future__ import annotations

import csv
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equipoise.core.curves.intervals import Interval
from equipoise.core.validate import check_choice
from equipoise.data import (
    InteractionLog,
    Interactions,
    InteractionSplit,
    leave_one_out,
    split_by_time,
    split_interactions,
)
from equipoise.recsys import (
    MetricLearningRecommender,
    RankingReport,
    RecommenderSettings,
    catalogue_coverage,
    evaluate_recommender,
    exposure_gini,
    popularity_lift,
    recommend,
)
from equipoise.report import RecommendationReport, recommendation_page
from equipoise.report.recommendation_page import Example, Group, Judged
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.interaction_log import read_log
from equipoise.workflows.output import staged_folder
from equipoise.workflows.recommend.request import RecommendRequest
from equipoise.workflows.scores.judging import provenance, write_summary

_log = logging.getLogger(__name__)
_MODELS = ("popular", "cml", "dpcml", "sfcml")
_METRICS = ("ndcg", "recall", "precision", "hit_rate", "map", "mrr", "auc")
_SPLITS = ("random", "leave_one_out", "time")
_THIRDS = ("the third with the fewest items", "the middle third", "the third with the most items")
_LEVEL = 0.95
# Below this share of a user's items a category is no interest of theirs.
_INTEREST = 0.1


@dataclass(frozen=True, kw_only=True)
class RecommendOutcome:
    """What `recommend_items` found.

    Attributes:
        folder: what was written.
        report: what `report.html` shows.
        chosen: the model that won.
    """

    folder: Path
    report: RecommendationReport
    chosen: str


class _Popular:
    """The items that most users took, for everybody."""

    def __init__(self, interactions: Interactions) -> None:
        self.popularity = interactions.per_item.double()

    def predict(self, users: Tensor) -> Tensor:
        return self.popularity.expand(len(users), -1)


@dataclass(frozen=True)
class _Contender:
    """A trained model and how it was judged.

    Attributes:
        model: has `predict`.
        settings: of metric learning; None for popularity.
        epochs: that its weights have seen.
        value: of the metric on the validation part.
        test: its report on the test part, with lists.
        seconds: of training.
    """

    model: Any
    settings: RecommenderSettings | None
    epochs: int
    value: float
    test: RankingReport
    seconds: float


def recommend_items(
    interactions: str | Path,
    request: RecommendRequest,
    *,
    command: str = "",
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> RecommendOutcome:
    """Compare recommenders on a log, refit the best one on all of it, and write lists for every user.

    Args:
        interactions: CSV, TSV, Parquet or RecBole's `.inter` file with a row per interaction.
        request: the options.
        command: what the user typed, for the report.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    started = time.perf_counter()
    _check(request)
    inputs = [interactions, *([request.items] if request.items else [])]
    with staged_folder(request.output, overwrite=request.overwrite, inputs=inputs) as stage:
        progress("reading")
        with mendable():
            if request.checkpoints is not None:
                request.checkpoints.mkdir(parents=True, exist_ok=True)
            log = read_log(interactions, request)
            _say_who_has_all(log.interactions, notice)
            split = _split(log, request, notice)
        contenders = {name: _trained(name, split, request, progress) for name in dict.fromkeys(request.models)}
        chosen = _best(contenders, _metric(request))
        progress(f"refitting {chosen} on everything")
        final = _refitted(contenders[chosen], log.interactions, stage / "model", progress)
        if (stage / "model").is_dir():
            names = {"users": log.user_names, "items": log.item_names}
            (stage / "model" / "names.json").write_text(json.dumps(names, ensure_ascii=False), encoding="utf-8")
        lists = recommend(final, torch.arange(log.interactions.num_users), request.k, exclude=log.interactions)
        _write_lists(stage / "recommendations.csv", log, lists)
        report = _report(log, split, contenders, chosen, request, lists)
        report = replace(report, provenance=provenance(command, request.seed, time.perf_counter() - started))
        (stage / "report.html").write_text(recommendation_page(report), encoding="utf-8")
        write_summary(stage, _summary(request, contenders, chosen, report))
    return RecommendOutcome(folder=request.output, report=report, chosen=chosen)


def _check(request: RecommendRequest) -> None:
    with mendable():
        for name in request.models:
            check_choice("model", name, _MODELS)
        check_choice("metric", request.metric, _METRICS)
        check_choice("split", request.split, _SPLITS)
    if not request.models:
        raise InputError("name at least one model")
    for name in ("k", "min_count", "epochs", "dim"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise InputError(f"{name}={value} must be at least 1")
    if request.learning_rate is not None and not 0 < request.learning_rate < math.inf:
        raise InputError(f"learning_rate={request.learning_rate} must be a finite number greater than 0")
    if request.seed < 0:
        raise InputError(f"seed={request.seed} must be at least 0")


def _say_who_has_all(interactions: Interactions, notice: Callable[[str], None]) -> None:
    full = int((interactions.per_user == interactions.num_items).sum())
    if full == interactions.num_users:
        raise InputError("every user took every item, so there is nothing to recommend")
    if full:
        notice(f"{full} of {interactions.num_users} users took every item; their lists are empty")


def _split(log: InteractionLog, request: RecommendRequest, notice: Callable[[str], None]) -> InteractionSplit:
    if request.split == "time":
        if log.times is None:
            raise InputError("--split time needs a column of times; name it with --time")
        split = split_by_time(log.interactions, log.times)
        unseen = int((split.train.per_user[split.test.per_user > 0] == 0).sum())
        if unseen:
            notice(f"{unseen} users of the test part took nothing before it; they are answered by popularity")
    elif request.split == "leave_one_out":
        split = leave_one_out(log.interactions, log.times, min_count=max(request.min_count, 3), seed=request.seed)
    else:
        split = split_interactions(log.interactions, min_count=request.min_count, seed=request.seed)
    if log.times is not None and request.split == "random":
        notice(
            "the log has times, and a random split learns from what came later; --split time judges a model as it "
            "will be used"
        )
    for name, part in zip(split._fields, split, strict=True):
        if not len(part):
            raise InputError(f"the {name} part is empty; the log is too small for this split")
    return split


def _trained(
    name: str, split: InteractionSplit, request: RecommendRequest, progress: Callable[[str], None]
) -> _Contender:
    started = time.perf_counter()
    settings, epochs = _settings(name, request), 0
    if settings is None:
        model: Any = _Popular(split.train)
    else:
        progress(f"training {name}")
        model = MetricLearningRecommender(settings)
        checkpoint = None
        if request.checkpoints is not None:
            checkpoint = request.checkpoints / f"{name}.pt"
        try:
            with mendable():
                model.fit(
                    split.train,
                    split.validation,
                    metric=_metric(request),
                    progress=lambda epoch, loss, value: progress(_epoch_words(name, settings, epoch, loss, value)),
                    checkpoint=checkpoint,
                )
        except FloatingPointError as error:
            raise InputError(f"{name}: {error} with --learning-rate") from error
        epochs = model.history.best_epoch + 1
    seconds = time.perf_counter() - started
    validated = evaluate_recommender(model, split.validation, split.train, k=request.k)
    seen = split.train.union(split.validation)
    test = evaluate_recommender(model, split.test, seen, k=request.k, lists=True)
    return _Contender(model, settings, epochs, validated.means()[_metric(request)].value, test, seconds)


def _epoch_words(name: str, settings: RecommenderSettings, epoch: int, loss: float, value: float | None) -> str:
    words = f"training {name}: epoch {epoch + 1} of {settings.epochs}, loss {loss:.4f}"
    return words if value is None else f"{words}, on the validation part {value:.4f}"


def _settings(name: str, request: RecommendRequest) -> RecommenderSettings | None:
    if name == "popular":
        return None
    asked = {"epochs": request.epochs, "dim": request.dim, "learning_rate": request.learning_rate}
    changes = {key: value for key, value in asked.items() if value is not None}
    return RecommenderSettings.usual(name, seed=request.seed, **changes)  # type: ignore[arg-type]


def _best(contenders: Mapping[str, _Contender], metric: str) -> str:
    known = [name for name, one in contenders.items() if not math.isnan(one.value)]
    if not known:
        raise InputError(f"{metric} has no value for any user of the validation part; choose another metric or split")
    return max(known, key=lambda name: contenders[name].value)


def _refitted(winner: _Contender, interactions: Interactions, folder: Path, progress: Callable[[str], None]) -> Any:
    """The model that is shipped: trained on everything, for as many epochs as were best."""
    if winner.settings is None:
        return _Popular(interactions)
    settings = replace(winner.settings, epochs=winner.epochs)
    model = MetricLearningRecommender(settings).fit(
        interactions,
        progress=lambda epoch, loss, value: progress(_epoch_words("the model to keep", settings, epoch, loss, value)),
    )
    model.save(folder)
    return model


def _metric(request: RecommendRequest) -> str:
    return request.metric if request.metric == "auc" else f"{request.metric}@{request.k}"


def _write_lists(path: Path, log: InteractionLog, lists: Tensor) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user", "rank", "item", *(["title"] if log.titles else [])])
        for user, row in zip(log.user_names, lists.tolist(), strict=True):
            for rank, item in enumerate(row, 1):
                if item >= 0:
                    writer.writerow([user, rank, log.item_names[item], *([log.titles[item]] if log.titles else [])])


def _report(
    log: InteractionLog,
    split: InteractionSplit,
    contenders: Mapping[str, _Contender],
    chosen: str,
    request: RecommendRequest,
    lists: Tensor,
) -> RecommendationReport:
    metric, seen = _metric(request), split.train.union(split.validation)
    judged = []
    for name, one in contenders.items():
        pages = one.test.lists
        assert pages is not None
        shown = {
            "coverage": catalogue_coverage(pages, log.interactions.num_items),
            "gini": exposure_gini(pages, log.interactions.num_items),
            "popularity lift": float(
                popularity_lift(pages, seen.select(one.test.users), split.train.per_item).nanmean()
            ),
        }
        means = {key: Interval(mean.value, mean.low, mean.high) for key, mean in one.test.means(level=_LEVEL).items()}
        judged.append(Judged(name, means, shown, one.value, one.epochs, one.seconds))
    winner = contenders[chosen].test
    gap = None
    if "popular" in contenders and chosen != "popular":
        gap = _difference(winner.values[metric], contenders["popular"].test.values[metric])
    split_words = {"random": "at random per user", "leave_one_out": "one item per user", "time": "at one moment"}
    facts = (
        f"{log.interactions.num_users:,} users",
        f"{log.interactions.num_items:,} items",
        f"{len(log.interactions):,} interactions",
        f"held out {split_words[request.split]}",
    )
    return RecommendationReport(
        title=f"Lists of {request.k} by {chosen}",
        facts=facts,
        metric=metric,
        chosen=chosen,
        judged=judged,
        gap=gap,
        groups=_groups(log, split, winner, metric),
        example=_example(log, lists),
        level=_LEVEL,
    )


def _difference(ours: Tensor, theirs: Tensor) -> Interval:
    """The mean difference over users, with a normal interval."""
    gaps = ours - theirs
    gaps = gaps[gaps.isfinite()]
    normal = float(torch.special.ndtri(torch.tensor((1 + _LEVEL) / 2, dtype=torch.float64)))
    width = normal * float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.inf
    mean = float(gaps.mean())
    return Interval(mean, mean - width, mean + width)


def _groups(log: InteractionLog, split: InteractionSplit, found: RankingReport, metric: str) -> list[Group]:
    """The metric by how many items a user has and, with categories, by how many kinds of items they like."""
    taken = split.train.per_user[found.users]
    groups = []
    if len(taken.unique()) > 1:
        thirds = _thirds(taken)
        groups = [_group(words, found, metric, thirds == k) for k, words in enumerate(_THIRDS)]
    if log.categories is not None:
        kinds = _kinds(split.train, log.categories)[found.users]
        for least, most, words in (
            (0, 2, "up to two kinds of items"),
            (3, 4, "three or four"),
            (5, 10**9, "five or more"),
        ):
            groups.append(_group(words, found, metric, (kinds >= least) & (kinds <= most)))
    return [group for group in groups if group.users]


def _thirds(taken: Tensor) -> Tensor:
    """The third of each user by their items; users with as many stay together, where the middle of them belongs."""
    ordered = taken.sort().values
    below, upto = torch.searchsorted(ordered, taken), torch.searchsorted(ordered, taken, right=True)
    return (3 * (below + upto)) // (2 * max(len(taken), 1))


def _group(words: str, found: RankingReport, metric: str, chosen: Tensor) -> Group:
    mean = found.by_group(chosen.long(), level=_LEVEL).get(1, {}).get(metric)
    if mean is None:
        return Group(words, 0, Interval(math.nan, math.nan, math.nan))
    return Group(words, mean.users, Interval(mean.value, mean.low, mean.high))


def _kinds(train: Interactions, categories: Tensor) -> Tensor:
    """How many categories hold at least a tenth of each user's items."""
    sums = torch.zeros((train.num_users, categories.shape[1]), dtype=torch.float64)
    sums.index_add_(0, train.users, categories[train.items].double())
    return (sums >= _INTEREST * train.per_user[:, None].clamp_min(1)).sum(1)


def _example(log: InteractionLog, lists: Tensor) -> Example:
    """The user with the median number of items: what they took, and what they are shown."""
    taken = log.interactions.per_user
    user = int(taken.argsort(stable=True)[len(taken) // 2])
    names = log.titles or log.item_names
    kinds: dict[str, int] = {}
    if log.categories is not None:
        counts = log.categories[log.interactions.of(user)].sum(0)
        order = counts.argsort(descending=True, stable=True).tolist()
        kinds = {log.category_names[c]: int(counts[c]) for c in order[:5] if counts[c]}
    return Example(
        user=log.user_names[user],
        took=[names[item] for item in log.interactions.of(user)[:12].tolist()],
        number=int(taken[user]),
        kinds=kinds,
        shown=[names[item] for item in lists[user].tolist() if item >= 0][:12],
    )


def _summary(
    request: RecommendRequest, contenders: Mapping[str, _Contender], chosen: str, report: RecommendationReport
) -> dict[str, Any]:
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    return {
        "request": asked,
        "chosen": chosen,
        "metric": report.metric,
        "models": {
            one.name: {
                "validation": one.validation,
                "test": one.means,
                "exposure": one.shown,
                "epochs": one.epochs,
                "seconds": one.seconds,
                "settings": None if (settings := contenders[one.name].settings) is None else asdict(settings),
            }
            for one in report.judged
        },
        "gap_to_popular": report.gap,
        "groups": list(report.groups),
    }
