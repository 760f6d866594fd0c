"""The answer that a reader looks for first: who won, by how much, how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from equipoise.core.curves.intervals import Interval
from equipoise.report.model import EvaluationReport, FitReport, ModelMetrics, Report
from equipoise.report.numbers import UNKNOWN, estimate, interval, known

Mood = Literal["clear", "close", "plain"]

_UNSAID: Mood = "close"
NOTHING = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Tile:
    """One large number.

    Attributes:
        label: what it is.
        value: the estimate.
        interval: its ends, or nothing.
    """

    label: str
    value: str
    interval: str


@dataclass(frozen=True)
class Answer:
    """What stands at the top of the page.

    Attributes:
        kicker: what is answered.
        headline: the winner.
        judgement: how sure, in a few words; may be empty.
        mood: "clear" if the winner is better than the reference, "plain" if log loss won, "close" otherwise.
        sentence: the verdict in a sentence; may be empty.
        tiles: the numbers.
    """

    kicker: str
    headline: str
    judgement: str
    mood: Mood
    sentence: str
    tiles: tuple[Tile, ...]


def answer(report: Report) -> Answer:
    """The answer of a report."""
    return _of_fit(report) if isinstance(report, FitReport) else _of_evaluation(report)


def _of_fit(report: FitReport) -> Answer:
    won = next((row for row in report.contest if row.winner), None)
    name = won.name if won else report.models[0].name if report.models else report.title
    tested = next((model for model in report.models if model.name == name), None)
    tiles = []
    if tested and report.metric in tested.metrics:
        tiles.append(_tile("on the test part", tested.metrics[report.metric]))
    if won:
        tiles.append(_tile("in cross-validation", won.mean))
    judgement, mood = "", _UNSAID
    if won and won.baseline:
        judgement, mood = "Plain log loss did best.", "plain"
        rivals = [row for row in report.contest if row.gain is not None]
        if rivals:
            tiles.append(_tile(f"difference of the next best, {rivals[0].name}", rivals[0].gain, signed=True))
        else:
            judgement = ""
    elif won and won.gain is not None:
        tiles.append(_tile("against plain log loss", won.gain, signed=True))
        judgement, mood = _judge(won.gain, "Better than plain log loss.", "Too close to call against plain log loss.")
    several = len(report.contest) > 1
    return Answer(
        kicker=f"{'Best' if several else 'Trained'} for {report.metric}",
        headline=name,
        judgement=judgement,
        mood=mood,
        sentence=report.verdict,
        tiles=tuple(tiles),
    )


def _of_evaluation(report: EvaluationReport) -> Answer:
    def value(model: ModelMetrics) -> float:
        found = model.metrics.get(report.metric)
        return found.estimate if found is not None and known(found.estimate) else float("-inf")

    best = max(report.models, key=value)
    judgement, mood = "", _UNSAID
    tiles = [_tile(report.metric, best.metrics.get(report.metric))]
    if len(report.models) > 1:
        first = report.models[0]
        if best is not first:
            gain = report.gains.get(best.name)
            if gain is not None:
                tiles.append(_tile(f"against {first.name}", gain, signed=True))
                judgement, mood = _judge(gain, f"Better than {first.name}.", f"Too close to call against {first.name}.")
        else:
            second = max(report.models[1:], key=value)
            gain = report.gains.get(second.name)
            if gain is not None:
                tiles.append(_tile(f"difference of the next best, {second.name}", gain, signed=True))
                turned = Interval(-gain.estimate, -gain.high, -gain.low)
                judgement, mood = _judge(
                    turned, f"Better than {second.name}.", f"Too close to call against {second.name}."
                )
    others = [(name, found) for name, found in best.metrics.items() if name != report.metric]
    tiles += [_tile(name, found) for name, found in others[: 3 - len(tiles)]]
    return Answer(
        kicker=f"Highest {report.metric}" if len(report.models) > 1 else "Scores",
        headline=best.name,
        judgement=judgement,
        mood=mood,
        sentence="",
        tiles=tuple(tiles),
    )


def _judge(gain: Interval, clear: str, close: str) -> tuple[str, Mood]:
    if not known(gain.low):
        return "", "close"
    return (clear, "clear") if gain.low > 0 else (close, "close")


def _tile(label: str, value: Interval | None, *, signed: bool = False) -> Tile:
    ends = interval(value, signed=signed)
    return Tile(label, estimate(value, signed=signed), "" if ends == UNKNOWN else ends)
