"""`equipoise debias`."""

from __future__ import annotations

from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, one_thread, print_notice, print_path
from equipoise.workflows.debias.request import DebiasRequest

_DEFAULTS = DebiasRequest()


def debias(pipeline: str, /, *, request: Annotated[DebiasRequest, FIELDS] = _DEFAULTS) -> None:
    """Make neutral prompts of a text-to-image pipeline show every value of an attribute as often.

    Parameters
    ----------
    pipeline: str
        A folder of diffusers with a Stable Diffusion pipeline, or 'shapes' for a small one to try it on, which is
        trained in minutes the first time.
    """
    from equipoise.report.fairness_page import fairness_verdict
    from equipoise.report.numbers import number
    from equipoise.workflows.debias.debiasing import debias_pipeline

    if pipeline == "shapes":
        one_thread()
    with console.status("loading") as status:
        outcome = debias_pipeline(
            pipeline, request, command=command_line(), notice=print_notice, progress=status.update
        )
    report = outcome.report
    table = Table("concept", "", *report.values, "bias", "similarity", box=None, header_style="dim", pad_edge=False)
    for row in report.rows:
        for when, words in enumerate(("before", "after")):
            shares = (f"{share:.0%}" for share in row.shares[when])
            table.add_row(row.concept, words, *shares, number(row.bias[when]), number(row.quality[when]))
    console.print(table)
    console.print(fairness_verdict(report), highlight=False)
    print_path("adapter", outcome.folder / "adapter")
    print_path("pictures", outcome.folder / "sheet.png")
    print_path("report", outcome.folder / "report.html")
