"""Which of several methods ranks first over many data sets: average ranks, whether they differ, and a picture.

Ranks are taken within a data set, 1 being the best, ties sharing their mean. The Friedman test (with Iman and
Davenport's correction, less conservative) asks whether all methods could be equal. Two methods differ in Nemenyi's test
where their average ranks are at least a critical difference apart,

    CD = q_α √(k (k + 1) / 6N)        k methods, N data sets, q_α of the studentized range / √2

which guards all k (k − 1)/2 comparisons and is accordingly blunt. Against one reference method, Wilcoxon's signed-rank
test on the values themselves, with Holm's correction for the k − 1 comparisons, sees more.

Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 2006.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]


@dataclass(frozen=True)
class Against:
    """A method beside the reference.

    Attributes:
        wins: data sets on which it is better.
        losses: data sets on which it is worse.
        mean_gain: mean difference of the metric over data sets.
        p_value: of Wilcoxon's signed-rank test, two-sided, after Holm's correction; 1 where all are tied.
    """

    wins: int
    losses: int
    mean_gain: float
    p_value: float


@dataclass(frozen=True)
class RankComparison:
    """Methods compared over data sets.

    Attributes:
        methods: names, the best average rank first.
        average_rank: of each.
        mean: of the metric over data sets, of each; a failed run counts nothing here.
        data_sets: how many.
        p_value: of the Friedman test in Iman and Davenport's form.
        critical_difference: Nemenyi's, at `alpha`.
        alpha: level of the test.
        reference: the method that `against` compares with.
        against: the other methods beside it.
    """

    methods: tuple[str, ...]
    average_rank: tuple[float, ...]
    mean: tuple[float, ...]
    data_sets: int
    p_value: float
    critical_difference: float
    alpha: float
    reference: str
    against: Mapping[str, Against]

    def groups(self) -> list[tuple[int, int]]:
        """Longest runs of methods (first, last) whose average ranks lie within the critical difference."""
        runs: list[tuple[int, int]] = []
        for first in range(len(self.methods)):
            last = max(
                k
                for k in range(first, len(self.methods))
                if self.average_rank[k] - self.average_rank[first] < self.critical_difference
            )
            if last > first and not (runs and runs[-1][1] >= last):
                runs.append((first, last))
        return runs


def compare_ranks(values: Table, methods: Sequence[str], *, reference: str, alpha: float = 0.05) -> RankComparison:
    """Compare methods by a metric, higher being better, over data sets.

    Args:
        values: (data sets, methods); NaN where a method failed, which ranks last.
        methods: a name a column.
        reference: the method to compare the others with.
        alpha: level of Nemenyi's test.

    Raises:
        ValueError: if there are fewer than two methods or data sets, or the reference is none of them.

    >>> found = compare_ranks(np.array([[0.9, 0.8], [0.7, 0.6], [0.6, 0.5]]), ["a", "b"], reference="b")
    >>> found.methods, found.average_rank, found.against["a"].wins
    (('a', 'b'), (1.0, 2.0), 3)
    """
    from scipy import stats

    sets, count = values.shape
    if sets < 2 or count < 2:
        raise ValueError(f"ranks need at least two methods and two data sets, got {count} and {sets}")
    if reference not in methods:
        raise ValueError(f"reference={reference!r} is none of the methods {', '.join(map(repr, methods))}")
    ranks = stats.rankdata(-np.where(np.isnan(values), -np.inf, values), axis=1)
    average = ranks.mean(0)
    order = np.argsort(average, kind="stable")
    column = list(methods).index(reference)
    others = [k for k in range(count) if k != column]
    gains = {k: _gain(values[:, k], values[:, column]) for k in others}
    corrected = _holm([_wilcoxon(gains[k]) for k in others])
    return RankComparison(
        methods=tuple(methods[k] for k in order),
        average_rank=tuple(float(average[k]) for k in order),
        mean=tuple(float(np.nanmean(values[:, k])) if not np.isnan(values[:, k]).all() else math.nan for k in order),
        data_sets=sets,
        p_value=friedman_p_value(ranks),
        critical_difference=nemenyi_quantile(count, alpha) * math.sqrt(count * (count + 1) / (6 * sets)),
        alpha=alpha,
        reference=reference,
        against={
            methods[k]: Against(
                int((gains[k] > 0).sum()),
                int((gains[k] < 0).sum()),
                float(gains[k][np.isfinite(gains[k])].mean()) if np.isfinite(gains[k]).any() else math.nan,
                p,
            )
            for k, p in zip(others, corrected, strict=True)
        },
    )


def friedman_p_value(ranks: Table) -> float:
    """P-value of the hypothesis that all methods are equal, from ranks (data sets, methods), ties corrected for.

    >>> friedman_p_value(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])) > 0.3
    True
    """
    from scipy import stats

    sets, count = ranks.shape
    spread = ((ranks - (count + 1) / 2) ** 2).sum()
    if spread == 0:
        return 1.0
    between = sets * ((ranks.mean(0) - (count + 1) / 2) ** 2).sum()
    chi_square = (count - 1) * sets * between / spread
    rest = sets * (count - 1) - chi_square
    if rest <= 1e-12 * chi_square:
        return 0.0
    return float(stats.f.sf((sets - 1) * chi_square / rest, count - 1, (count - 1) * (sets - 1)))


def nemenyi_quantile(methods: int, alpha: float = 0.05) -> float:
    """q_α of Nemenyi's test for so many methods.

    >>> round(nemenyi_quantile(5), 3)
    2.728
    """
    from scipy import stats

    return float(stats.studentized_range.ppf(1 - alpha, methods, np.inf) / math.sqrt(2))


def rank_rows(comparison: RankComparison) -> list[list[str]]:
    """The cells of a table of the methods, header first, then the best average rank first."""
    beside = f"wins–losses against {comparison.reference}"
    cells = [["method", "average rank", "mean", beside, "mean gain", "p (Holm)"]]
    for name, rank, mean in zip(comparison.methods, comparison.average_rank, comparison.mean, strict=True):
        found = comparison.against.get(name)
        rest = (
            [f"{found.wins}–{found.losses}", f"{found.mean_gain:+.4f}", f"{found.p_value:.2g}"] if found else ["·"] * 3
        )
        cells.append([name, f"{rank:.2f}", f"{mean:.4f}", *rest])
    return cells


def rank_sentence(comparison: RankComparison) -> str:
    """What the tests over all methods say."""
    return (
        f"{comparison.data_sets} data sets; Friedman (Iman–Davenport) p = {comparison.p_value:.2g}; Nemenyi's critical "
        f"difference at {comparison.alpha:g} is {comparison.critical_difference:.2f}."
    )


def markdown_table(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table, header first; the first column is words and the others are numbers.

    >>> print(markdown_table([["method", "rank"], ["a|b", "1.00"]]))
    | method | rank |
    |---|---:|
    | a\\|b | 1.00 |
    """
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in cells]
    lines.insert(1, "|---|" + "---:|" * (len(cells[0]) - 1))
    return "\n".join(lines)


def draw_critical_difference(comparison: RankComparison, path: Path, title: str) -> None:
    """Write the critical-difference diagram: methods on an axis of ranks, bars joining what is not told apart."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    count = len(comparison.methods)
    left = (count + 1) // 2
    rows = max(left, count - left)
    bars = comparison.groups()
    low, high = math.floor(comparison.average_rank[0]), math.ceil(comparison.average_rank[-1])
    high = max(high, low + 1)
    figure = Figure(figsize=(9, 1.5 + 0.27 * rows + 0.11 * len(bars)), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    margin = 0.75 * (high - low)
    axes.set_xlim(low - margin, high + margin)
    top_of_labels = -0.35 - 0.22 * len(bars)
    axes.set_ylim(top_of_labels - 0.5 * rows, 1.7)
    axes.set_title(title, fontsize=11)
    axes.plot([low, high], [0, 0], color="black", linewidth=1)
    for tick in range(low, high + 1):
        axes.plot([tick, tick], [0, 0.15], color="black", linewidth=1)
        axes.text(tick, 0.22, str(tick), ha="center", va="bottom", fontsize=9)
    axes.plot([low, low + comparison.critical_difference], [1.1, 1.1], color="#b03a2e", linewidth=2.5)
    axes.text(
        low, 1.2, f"critical difference {comparison.critical_difference:.2f}", fontsize=9, color="#b03a2e", va="bottom"
    )
    for level, (first, last) in enumerate(bars):
        height = -0.2 - 0.22 * level
        ends = [comparison.average_rank[first] - 0.03, comparison.average_rank[last] + 0.03]
        axes.plot(ends, [height, height], color="black", linewidth=3.5, solid_capstyle="butt")
    for k, (name, rank) in enumerate(zip(comparison.methods, comparison.average_rank, strict=True)):
        on_left = k < left
        height = top_of_labels - 0.5 * (k if on_left else count - 1 - k)
        end = low - 0.05 * margin if on_left else high + 0.05 * margin
        axes.plot([rank, rank, end], [0, height, height], color="0.45", linewidth=0.9)
        words = f"{name}  {rank:.2f}" if on_left else f"{rank:.2f}  {name}"
        axes.text(
            end,
            height,
            words + " " if on_left else " " + words,
            ha="right" if on_left else "left",
            va="center",
            fontsize=9,
        )
    # Neither the day nor a random name goes into the file: the same comparison gives the same bytes.
    with rc_context({"svg.hashsalt": "equipoise"}):
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def as_plain(comparison: RankComparison) -> dict[str, Any]:
    """Numbers, strings and None only, for JSON."""
    return {
        "methods": [
            {"method": m, "average_rank": r, "mean": _finite(v)}
            for m, r, v in zip(comparison.methods, comparison.average_rank, comparison.mean, strict=True)
        ],
        "data_sets": comparison.data_sets,
        "friedman_p_value": comparison.p_value,
        "critical_difference": comparison.critical_difference,
        "alpha": comparison.alpha,
        "reference": comparison.reference,
        "against_reference": {
            name: {**vars(a), "mean_gain": _finite(a.mean_gain)} for name, a in comparison.against.items()
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _gain(value: Table, base: Table) -> Table:
    """Differences; a method that failed alone is infinitely worse, and both failing is a tie."""
    gain = np.where(np.isnan(value), -np.inf, value) - np.where(np.isnan(base), 0.0, base)
    gain[np.isnan(base) & ~np.isnan(value)] = np.inf
    gain[np.isnan(base) & np.isnan(value)] = 0.0
    return gain


def _wilcoxon(gain: Table) -> float:
    from scipy import stats

    # Any size will do for what ranks last or first.
    clipped = np.clip(gain, -1e6, 1e6)
    return float(stats.wilcoxon(clipped, zero_method="zsplit").pvalue) if (clipped != 0).any() else 1.0


def _holm(p_values: Sequence[float]) -> list[float]:
    order = np.argsort(p_values)
    corrected, floor = np.ones(len(p_values)), 0.0
    for place, k in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - place) * p_values[k]))
        corrected[k] = floor
    return [float(p) for p in corrected]
