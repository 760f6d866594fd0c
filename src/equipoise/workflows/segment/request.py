"""What `segment` can be asked for. The command line reads options, defaults and help from here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from equipoise.workflows.request import Request


@dataclass(frozen=True, kw_only=True)
class SegmentRequest(Request):
    """Options of `segment_images`.

    Attributes:
        classes: The names of the classes in their order, or a file with one on each line; by number if absent.
        ignore_index: The label of pixels that do not count.
        losses: What to compare: cross-entropy, weighted, dice, auc, auc-bank. Each has the same steps.
        metric: What to choose by on the validation images: miou, or tail for the mean IoU of the rare classes.
        tail: The names of the rare classes; the third with the fewest pixels in training if not given.
        encoder: The encoder of images whose maps the network stands on, such as efficientnet-lite0.
        size: The longer side that images are resized to, in pixels; a multiple of 32.
        val_size: The share of the images that is held out to choose by.
        test_size: The share of the images that is held out to judge by.
        steps: Training steps of each loss.
        batch_size: Images of a step.
        lr: The highest learning rate.
        width: Of the network's pyramid.
        predict: A folder of further images to label with the chosen network.
        worst: How many of the worst images to show.
        seed: Of the split, the weights and the batches.
        output: The folder to write: predictions, model, metrics.json, classes.csv, images.csv, report.html.
        overwrite: Replace the folder if an earlier run wrote it and it holds nothing else.
    """

    classes: Sequence[str] | None = None
    ignore_index: int = 255
    losses: Sequence[str] = ("cross-entropy", "weighted", "dice", "auc")
    metric: str = "miou"
    tail: Sequence[str] | None = None
    encoder: str = "efficientnet-lite0"
    size: int = 256
    val_size: float = 0.2
    test_size: float = 0.2
    steps: int = 400
    batch_size: int = 4
    lr: float = 3e-3
    width: int = 64
    predict: Path | None = None
    worst: int = 6
    seed: int = 0
    output: Path = Path("equipoise-segment")
    overwrite: bool = False
