"""Time two pieces of work side by side, and say whether a goal was reached.

Single timings on a shared machine mean little. Work and peer take turns in one process (A B A B ...), so that what else
the machine does falls on both, and what is compared is the ratio of their medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

# A turn lasts at least so many seconds.
_TURN = 0.02


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        work: what was run.
        beside: what it was compared with.
        measured: the ratio, or another figure in the unit of the goal; None if it could not be run.
        goal: the figure to reach; None where there is none.
        larger_is_better: True for "how many times faster", False for "at most so many times the time".
        unit: written after the figures.
        note: anything a reader should know.
    """

    work: str
    beside: str
    measured: float | None
    goal: float | None = None
    larger_is_better: bool = True
    unit: str = "×"
    note: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the goal was reached; None if there is none or nothing was measured."""
        if self.measured is None or self.goal is None:
            return None
        return self.measured >= self.goal if self.larger_is_better else self.measured <= self.goal


def medians(*works: Callable[[], object], repeats: int = 7, seconds: float = 20.0) -> list[float]:
    """Median time of each work in seconds, the works taking turns.

    Args:
        works: called without arguments; each is called once beforehand to warm up.
        repeats: rounds.
        seconds: after this time no new round begins.
    """
    for work in works:
        work()
    times: list[list[float]] = [[] for _ in works]
    end = time.perf_counter() + seconds
    for round_ in range(repeats):
        if round_ and time.perf_counter() > end:
            break
        for work, taken in zip(works, times, strict=True):
            # A short work gets several calls a turn, else it would only ever run on caches that the long one left.
            turn = time.perf_counter()
            while True:
                start = time.perf_counter()
                work()
                taken.append(time.perf_counter() - start)
                if time.perf_counter() - turn > _TURN:
                    break
    return [median(taken) for taken in times]


def ratio(numerator: Callable[[], object], denominator: Callable[[], object], **options: float) -> float:
    """Median time of the first work over that of the second, run in turns; options as in `medians`."""
    first, second = medians(numerator, denominator, **options)
    return first / second


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| work | beside | measured | goal | |", "|---|---|---:|---:|---|"]
    verdicts = {True: "reached", False: "missed", None: ""}
    for row in rows:
        measured = "not run" if row.measured is None else f"{row.measured:.3g}{row.unit}"
        goal = "" if row.goal is None else f"{'≥' if row.larger_is_better else '≤'} {row.goal:g}{row.unit}"
        remark = ", ".join(part for part in (verdicts[row.reached], row.note) if part)
        lines.append(f"| {row.work} | {row.beside} | {measured} | {goal} | {remark} |")
    return "\n".join(lines)
