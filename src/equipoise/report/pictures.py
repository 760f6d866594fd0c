"""Pictures by matplotlib, for a folder and for a page that takes them in."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from equipoise.report.markup import node

STYLE = """
.picture { max-width: none; }
.picture img { background: #fff; width: 100%; max-width: 760px; border-radius: 6px; }
"""
_KINDS = {".svg": "svg+xml", ".png": "png"}
_MOST_NAMES = 60


def picture(path: Path, alt: str, caption: str = "") -> Element:
    """A figure that holds the file itself; it is drawn black on white."""
    return node(
        "figure",
        node("img", src=inline(path), alt=alt),
        node("figcaption", caption) if caption else None,
        class_="picture",
    )


def inline(path: Path) -> str:
    """An SVG or PNG file as the source of an image."""
    return f"data:image/{_KINDS[path.suffix]};base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def draw_path(
    path: Path,
    times: NDArray[np.float64],
    lengths: NDArray[np.float64],
    marked: Sequence[tuple[int, str]],
    chosen: float,
    losses: dict[str, NDArray[np.float64]],
) -> None:
    """How far people have left a consensus, and what held-out answers say of it.

    Args:
        path: the PNG file.
        times: (t,) recorded times.
        lengths: (t, people) length of each deviation.
        marked: people to name.
        chosen: the time that is read.
        losses: name → (t,) loss of held-out answers.
    """
    figure = _figure(8.0, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    names = dict(marked)
    others = [person for person in range(lengths.shape[1]) if person not in names]
    upper.plot(times, lengths[:, others], color="0.6", linewidth=0.8, alpha=0.6)
    for place, (person, name) in enumerate(marked):
        upper.plot(times, lengths[:, person], color=f"C{place % 10}", linewidth=1.8, label=_plain(name))
    if marked:
        upper.legend(frameon=False, fontsize=8, loc="upper left")
    upper.set(xscale="log", ylabel="deviation")
    for place, (name, values) in enumerate(losses.items()):
        lower.plot(times, values, color=f"C{place}", label=name)
    lower.legend(frameon=False, fontsize=8)
    lower.set(xlabel="time of the path", ylabel="held-out loss")
    for axes in (upper, lower):
        axes.axvline(chosen, color="0.3", linestyle=":", linewidth=1.2)
    _save(figure, path)


def draw_places(path: Path, places: NDArray[np.float64], names: Sequence[str]) -> None:
    """Items (n, 1 or 2) on a plane, named where there are few."""
    figure = _figure(7.0, 6.0)
    axes = figure.subplots()
    flat = np.column_stack([places[:, 0], places[:, 1] if places.shape[1] > 1 else np.zeros(len(places))])
    axes.scatter(*flat.T, s=14, color="C0")
    if len(names) <= _MOST_NAMES:
        for name, spot in zip(names, flat, strict=True):
            axes.annotate(_plain(name), spot, xytext=(3, 3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="first principal axis", ylabel="second principal axis", aspect="equal")
    _save(figure, path)


def draw_structure(
    path: Path,
    weights: NDArray[np.float64],
    features: Sequence[str],
    tasks: Sequence[str],
    cuts: tuple[Sequence[int], Sequence[int]],
) -> None:
    """Weights (features, tasks) in the order of their groups, with a line between groups."""
    wide, high = min(12.0, 3.0 + 0.16 * len(tasks)), min(12.0, 2.0 + 0.2 * len(features))
    figure = _figure(wide, high)
    axes = figure.subplots()
    most = float(np.abs(weights).max(initial=0.0)) or 1.0
    shown = axes.imshow(weights, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    for place, (ends, line) in enumerate(zip(cuts, (axes.axhline, axes.axvline), strict=True)):
        for end in ends:
            line(end - 0.5, color="black", linewidth=1.0 + 0.1 * place)
    for names, ticks, turn in ((features, axes.set_yticks, 0), (tasks, axes.set_xticks, 90)):
        if len(names) <= _MOST_NAMES:
            ticks(range(len(names)), [_plain(name)[:24] for name in names], fontsize=7, rotation=turn)
    axes.set(xlabel="task", ylabel="feature")
    figure.colorbar(shown, label="weight")
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    # A figure of its own: pyplot's global state stays as it is.
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Any, path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        # Names in scripts that matplotlib's font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(path, dpi=130)


def _plain(name: str) -> str:
    """The name with nothing that matplotlib would read as a formula or hide."""
    return (name if not name.startswith("_") else f" {name}").replace("$", r"\$").replace("\n", " ")
