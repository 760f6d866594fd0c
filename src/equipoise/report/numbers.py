"""Numbers as text, the same in the page, the terminal and Markdown. What is not known is "–"."""

from __future__ import annotations

import math

from equipoise.core.curves.intervals import Interval

UNKNOWN = "–"


def known(value: float | None) -> bool:
    """Whether there is a number to show.

    >>> known(float("nan"))
    False
    """
    return value is not None and not math.isnan(value)


def number(value: float | None, *, digits: int = 3, signed: bool = False) -> str:
    """A rate or a metric.

    >>> number(0.84913), number(-0.0012, signed=True), number(None)
    ('0.849', '−0.001', '–')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "−∞" if value < 0 else "∞"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    if float(text) == 0:
        text = f"{0:.{digits}f}"
    return text.replace("-", "−")


def interval(value: Interval | None, *, signed: bool = False) -> str:
    """The two ends of an interval; a narrow one gets a fourth digit.

    >>> interval(Interval(0.84913, 0.83, 0.8671))
    '[0.830, 0.867]'
    """
    if value is None or not (known(value.low) and known(value.high)):
        return UNKNOWN
    digits = digits_for(value)
    return f"[{number(value.low, digits=digits, signed=signed)}, {number(value.high, digits=digits, signed=signed)}]"


def estimate(value: Interval | None, *, signed: bool = False) -> str:
    """The estimate alone, with as many digits as its interval.

    >>> estimate(Interval(0.0124, 0.001, 0.02), signed=True)
    '+0.012'
    """
    return UNKNOWN if value is None else number(value.estimate, digits=digits_for(value), signed=signed)


def with_interval(value: Interval | None, *, signed: bool = False) -> str:
    """Estimate and interval in one string; the estimate alone where the interval is not known.

    >>> with_interval(Interval(0.84913, 0.83, 0.8671)), with_interval(None)
    ('0.849 [0.830, 0.867]', '–')
    """
    parts = [estimate(value, signed=signed), interval(value, signed=signed)]
    return " ".join(part for part in parts if part != UNKNOWN) or UNKNOWN


def digits_for(value: Interval) -> int:
    """Three digits, or four where three would hide the interval."""
    return 4 if 0 < value.high - value.low < 0.004 else 3


def rate(value: float | None) -> str:
    """A false- or true-positive rate; a small one keeps two digits that matter.

    >>> rate(0.0438), rate(0.000123), rate(0.0), rate(None)
    ('0.0438', '0.00012', '0', '–')
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    if value < 0.001:
        return "0" if value == 0 else f"{value:.{1 - math.floor(math.log10(value))}f}"
    return f"{value:.4f}"


def threshold(value: float) -> str:
    """A threshold for the eye, six digits of it.

    >>> threshold(-1.557312345)
    '−1.55731'
    """
    return f"{value:.6g}".replace("-", "−")


def count(value: int | None) -> str:
    """A whole number with thin groups.

    >>> count(5472)
    '5,472'
    """
    return UNKNOWN if value is None else f"{value:,}"


def share(part: int | None, whole: int) -> str:
    """A share as a percentage.

    >>> share(559, 5472), share(1, 100_000), share(0, 0)
    ('10.2 %', '0.001 %', '–')
    """
    if part is None or whole == 0:
        return UNKNOWN
    percent = 100 * part / whole
    return f"{percent:.1f} %" if percent >= 1 or percent == 0 else f"{percent:.2g} %"


def per_thousand(rate: float | None) -> str:
    """How many of 1,000, with a digit after the point where they are few.

    >>> per_thousand(0.0442), per_thousand(0.00216), per_thousand(None)
    ('44', '2.2', '–')
    """
    if rate is None or math.isnan(rate):
        return UNKNOWN
    many = 1000 * rate
    if many == 0 or many >= 9.95:
        return f"{many:.0f}"
    return f"{many:.1f}" if many >= 0.095 else f"{many:.1g}"


def duration(seconds: float | None) -> str:
    """A time as a person says it.

    >>> duration(0.042), duration(8.31), duration(125.0), duration(None)
    ('0.04 s', '8.3 s', '2 min 5 s', '–')
    """
    if seconds is None or math.isnan(seconds):
        return UNKNOWN
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
