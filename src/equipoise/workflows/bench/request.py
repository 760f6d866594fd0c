"""What `bench tabular` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """Options of `bench_tabular`.

    Attributes:
        output: The folder to write: results.csv, summary.md, .html and .json, and a critical-difference diagram a
            metric.
        data: npz files of tables (NAME__X and NAME__y); by default the tables that ship in installed packages.
        splits: Stratified splits of every table.
        jobs: Processes, each with one thread.
        tables: Names of tables; all by default.
        methods: Names of methods, such as "mlp · auc"; all by default.
    """

    output: Path = Path("equipoise-bench")
    data: Sequence[Path] | None = None
    splits: int = 5
    jobs: int = 1
    tables: Sequence[str] | None = None
    methods: Sequence[str] | None = None


@dataclass(frozen=True)
class Budget:
    """What every run may spend.

    Attributes:
        epochs: most epochs of networks.
        patience: epochs without a better held-out result before a network stops.
        rounds: most rounds of boosters.
        held_out: share of the training part by which networks and boosters stop early, in [0, 1).
    """

    epochs: int = 30
    patience: int = 10
    rounds: int = 100
    held_out: float = 0.2


STANDARD = Budget()
