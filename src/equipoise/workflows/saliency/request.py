"""What `evaluate --saliency` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class SaliencyRequest(Request):
    """Options of `evaluate_saliency`.

    Attributes:
        min_area: With --saliency, objects of fewer pixels are dropped, but never all of a mask.
        normalize: With --saliency, stretch every map to [0, 1] first, as many toolkits do.
        pixelwise: With --saliency, leave out E-, S- and weighted F-measures, which take most of the time.
        worst: With --saliency or --segmentation, how many of the worst images to show.
        workers: Threads of a stream, or processes of --saliency; by default one for each core where it pays.
        output: The folder to write: metrics.json, report.html; with --saliency also images.csv, objects.csv,
            curves.csv.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    min_area: int = 0
    normalize: bool = False
    pixelwise: bool = False
    worst: int = 6
    workers: int | None = None
    output: Path = Path("equipoise-evaluation")
    overwrite: bool = False
