"""Measure on a log how far recommenders let users out of their bubble."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equipoise.core.validate import check_choice, check_fraction
from equipoise.data import InteractionLog, Interactions, split_interactions
from equipoise.recsys import (
    EscapeRow,
    ImplicitALS,
    ItemKNN,
    MostPopular,
    Profiles,
    Recommender,
    build_profiles,
    escape_table,
    group_means,
)
from equipoise.workflows.bubble.request import BubbleRequest
from equipoise.workflows.errors import InputError, mendable
from equipoise.workflows.interaction_log import read_log
from equipoise.workflows.output import staged_folder

_log = logging.getLogger(__name__)

_MAKERS: dict[str, Callable[[int], Any]] = {
    "most_popular": lambda seed: MostPopular(),
    "item_knn": lambda seed: ItemKNN(),
    "recent_item_knn": lambda seed: ItemKNN(recent=10),
    "als": lambda seed: ImplicitALS(seed=seed),
}
_HEADS = {"eps": "random_share"}
_THIRDS = ("least active", "middle", "most active")


@dataclass(frozen=True, kw_only=True)
class BubbleOutcome:
    """What `measure_bubbles` found.

    Attributes:
        folder: what was written.
        rows: one for every recommender and share of random items.
        groups: the escape potential of the least, middle and most active users, a dictionary each.
        users: how many were simulated.
        items: in the catalogue.
        categories: how many there are.
    """

    folder: Path
    rows: list[EscapeRow]
    groups: list[dict[str, Any]]
    users: int
    items: int
    categories: int


def measure_bubbles(
    interactions: str | Path,
    request: BubbleRequest,
    *,
    notice: Callable[[str], None] = _log.warning,
    progress: Callable[[str], None] = _log.info,
) -> BubbleOutcome:
    """Fit recommenders on a part of a log, simulate two copies of its users, and write the escape potential of each.

    Args:
        interactions: CSV, TSV, Parquet or RecBole's `.inter` file with a row per interaction.
        request: the options.
        notice: told in sentences what makes the numbers less sure; logged if not given.
        progress: told what is being done.

    Raises:
        InputError: if the request cannot be carried out as given; nothing is written then.
    """
    if request.items is None:
        raise InputError("--items is needed: a file with the categories of each item")
    _check(request)
    with staged_folder(request.output, overwrite=request.overwrite, inputs=(interactions, request.items)) as stage:
        progress("reading")
        with mendable():
            log = _categorised(read_log(interactions, request), notice)
            train, held_out, profiles = _people(log, request)
            _notice_small_categories(log, request, notice)
        rows = []
        for name in request.recommender:
            progress(f"simulating {name}")
            recommender: Recommender = _MAKERS[name](request.seed).fit(train)
            rows += escape_table(
                {name: recommender},
                profiles,
                held_out=held_out.select(profiles.users),
                popularity=train.per_item,
                eps=tuple(request.random_share),
                diversity=request.diversity,  # type: ignore[arg-type]  # checked above
                seed=request.seed,
                rounds=request.rounds,
                page_size=request.page_size,
                burn_in=request.burn_in,
                update_every=request.update_every,
                repeats=request.repeats,
            )
        if all(math.isnan(row.bep) for row in rows):
            raise InputError(
                "no user was shown anything in the rounds that count, for the items run out; ask for fewer rounds or "
                "smaller pages, or pass --repeats"
            )
        groups = [group for row in rows for group in _groups(row, profiles, request.seed)]
        _write(stage, request, rows, groups)
    return BubbleOutcome(
        folder=request.output,
        rows=rows,
        groups=groups,
        users=len(profiles),
        items=train.num_items,
        categories=profiles.item_category.shape[1],
    )


def _check(request: BubbleRequest) -> None:
    with mendable():
        for name in request.recommender:
            check_choice("recommender", name, _MAKERS)
        check_choice("diversity", request.diversity, ("entropy", "normalized_entropy", "gini_simpson", "coverage"))
        check_fraction("test_size", request.test_size, one=False)
        for share in request.random_share:
            check_fraction("random_share", share, zero=True)
        for name in ("users", "rounds", "page_size", "update_every"):
            if getattr(request, name) < 1:
                raise InputError(f"{name}={getattr(request, name)} must be at least 1")
        if request.seed < 0:
            raise InputError(f"seed={request.seed} must be at least 0")
        if request.burn_in is not None and not 0 <= request.burn_in < request.rounds:
            raise InputError(f"burn_in={request.burn_in} must be at least 0 and below rounds={request.rounds}")
        if not request.recommender or not request.random_share:
            raise InputError("name at least one recommender and one share of random items")


def _categorised(log: InteractionLog, notice: Callable[[str], None]) -> InteractionLog:
    """The log without the items that have no category, which nothing could be said of."""
    if log.categories is None:
        raise InputError("the file of items has no column that is plainly their categories; name it with --category")
    kept = log.categories.any(1)
    if kept.all():
        return log
    found, pairs = log.interactions, kept[log.interactions.items]
    notice(
        f"{int((~kept).sum())} of {len(kept)} items have no category; they and {int((~pairs).sum())} interactions are "
        "left out"
    )
    place = kept.cumsum(0) - 1
    return InteractionLog(
        Interactions.from_pairs(
            found.users[pairs], place[found.items[pairs]], num_users=found.num_users, num_items=int(kept.sum())
        ),
        log.user_names,
        tuple(name for name, stays in zip(log.item_names, kept.tolist(), strict=True) if stays),
        None if log.ratings is None else log.ratings[pairs],
        None if log.times is None else log.times[pairs],
        None,
        log.categories[kept],
        log.category_names,
    )


def _people(log: InteractionLog, request: BubbleRequest) -> tuple[Interactions, Interactions, Profiles]:
    """The part to learn from, the part held out, and the users to simulate."""
    share = request.test_size
    split = split_interactions(log.interactions, (1 - share, 0.0, share), min_count=2, seed=request.seed)
    train = split.train
    pairs = train.contains(log.interactions.users, log.interactions.items)
    able = train.per_user.nonzero()[:, 0].numpy()
    drawn = np.random.default_rng(request.seed).permutation(able)[: request.users]

    def part(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[pairs]

    assert log.categories is not None
    profiles = build_profiles(
        train,
        log.categories,
        ratings=part(log.ratings),
        time=part(log.times),
        users=torch.from_numpy(np.sort(drawn)),
    )
    return train, split.test, profiles


def _notice_small_categories(log: InteractionLog, request: BubbleRequest, notice: Callable[[str], None]) -> None:
    assert log.categories is not None
    shown = request.rounds * request.page_size
    small = int((log.categories.sum(0) < shown).sum())
    if small and not request.repeats:
        notice(
            f"{small} of {log.categories.shape[1]} categories have fewer items than the {shown} that a user is shown; "
            "who likes one of them runs out of it, which looks like an escape: lower --rounds, or pass --repeats"
        )


def _groups(row: EscapeRow, profiles: Profiles, seed: int) -> list[dict[str, Any]]:
    found = group_means(row.result.per_user, profiles.traits.activity, seed=seed)
    return [
        {
            "recommender": row.recommender,
            "random_share": row.eps,
            "group": _THIRDS[group.group],
            "users": group.users,
            "bep": group.mean,
            "low": group.low,
            "high": group.high,
        }
        for group in found
    ]


def _write(stage: Path, request: BubbleRequest, rows: Sequence[EscapeRow], groups: Sequence[dict[str, Any]]) -> None:
    table = []
    for row in rows:
        names = [field.name for field in fields(row) if field.name != "result"]
        table.append({_HEADS.get(name, name): getattr(row, name) for name in names})
    for name, lines in (("escape.csv", table), ("groups.csv", groups)):
        with (stage / name).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)
    asked = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(request).items()}
    summary = {"request": asked, "recommenders": table, "groups": list(groups)}
    (stage / "escape.json").write_text(json.dumps(_finite(summary), indent=1, ensure_ascii=False), encoding="utf-8")


def _finite(value: Any) -> Any:
    """The same with null for what is undefined: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
