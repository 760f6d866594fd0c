"""`equipoise tune-encoder`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, print_notice, print_path
from equipoise.workflows.tune_encoder.request import TuneEncoderRequest

_DEFAULTS = TuneEncoderRequest()


def tune_encoder(encoder: str, images: str, /, *, request: Annotated[TuneEncoderRequest, FIELDS] = _DEFAULTS) -> None:
    """Tune an image encoder to see more detail, by what a denoiser predicts, without captions.

    Parameters
    ----------
    encoder: str
        The folder of a transformers CLIP model, or tiny for the one of the shapes world.
    images: str
        A folder of pictures, those of each class in a subfolder, or shapes for the shapes world.
    """
    from equipoise.report.encoder_page import verdict
    from equipoise.report.numbers import number
    from equipoise.workflows.tune_encoder.tuning import tune_encoder as tune

    with console.status("loading") as status:
        outcome = tune(
            encoder, Path(images), request, command=command_line(), notice=print_notice, progress=status.update
        )
    report = outcome.report
    table = Table("measure", "before", "after", box=None, header_style="dim", pad_edge=False)
    for name, value in report.before.items():
        table.add_row(name, number(value), number(report.after[name]))
    console.print(table)
    console.print(verdict(report), highlight=False)
    print_path("encoder", outcome.folder / "encoder")
    print_path("report", outcome.folder / "report.html")
