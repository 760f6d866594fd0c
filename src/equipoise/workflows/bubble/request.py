"""What `bubble` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.interaction_log import LogRequest


@dataclass(frozen=True, kw_only=True)
class BubbleRequest(LogRequest):
    """Options of `measure_bubbles`.

    Attributes:
        recommender: What to measure: most_popular, item_knn (cosine of who took the items), recent_item_knn (by the
            latest 10 items), als (matrix factorisation).
        random_share: Shares of random items to measure each recommender with, in [0, 1].
        users: At most so many users are simulated, drawn at random.
        rounds: Pages that each user gets.
        page_size: Items on a page.
        burn_in: First rounds that do not count; by default a third.
        update_every: Rounds between updates of the recommender.
        repeats: Let items be shown again, for small catalogues.
        diversity: What is compared: entropy, normalized_entropy, gini_simpson, coverage.
        test_size: The share of each user's items held out to judge accuracy by.
        seed: Of the split, the users and the simulation.
        output: The folder to write: escape.csv, groups.csv, escape.json.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    recommender: Sequence[str] = ("most_popular", "item_knn", "als")
    random_share: Sequence[float] = (0.0,)
    users: int = 500
    rounds: int = 30
    page_size: int = 10
    burn_in: int | None = None
    update_every: int = 1
    repeats: bool = False
    diversity: str = "entropy"
    test_size: float = 0.2
    seed: int = 0
    output: Path = Path("equipoise-bubble")
    overwrite: bool = False
