"""`equipoise segment`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, one_thread, print_path
from equipoise.workflows.segment.request import SegmentRequest

_DEFAULTS = SegmentRequest()


def segment(images: Path, masks: Path, /, *, request: Annotated[SegmentRequest, FIELDS] = _DEFAULTS) -> None:
    """Learn to label pixels with several losses on a pretrained encoder, choose one, and judge it by class.

    Parameters
    ----------
    images: Path
        A folder of pictures.
    masks: Path
        A folder of label maps with an index for each pixel; a file belongs to the picture of the same stem.
    """
    from equipoise.report.numbers import number
    from equipoise.report.segmentation_page import segmentation_table
    from equipoise.workflows.segment.segmenting import segment_images

    one_thread()
    with console.status("reading") as status:
        outcome = segment_images(images, masks, request, command=command_line(), progress=status.update)
    shown = Table("loss", "mIoU", "tail", "seconds", box=None, header_style="dim", pad_edge=False)
    for loss, values in outcome.contenders.items():
        shown.add_row(loss, number(values["miou"]), number(values["tail"]), f"{values['seconds']:.0f}")
    console.print("on the images to choose by:", highlight=False)
    console.print(shown)
    console.print(f"chosen: {outcome.chosen}; on the images to judge by:", highlight=False)
    console.print(segmentation_table(outcome.report))
    print_path("predictions", outcome.folder / "predictions")
    if outcome.predicted:
        print_path("labelled", outcome.folder / "labelled")
    print_path("model", outcome.folder / "model")
    print_path("report", outcome.folder / "report.html")
