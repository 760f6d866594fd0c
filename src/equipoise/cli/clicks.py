"""`equipoise clicks`."""

from __future__ import annotations

from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, console, one_thread, print_path
from equipoise.workflows.clicks.request import ClicksRequest

_DEFAULTS = ClicksRequest()


def clicks(data: str, /, *, request: Annotated[ClicksRequest, FIELDS] = _DEFAULTS) -> None:
    """Train click models on impressions with histories, and compare them on rows held out.

    Parameters
    ----------
    data: str
        A CSV, TSV or Parquet file with a row per impression: the item shown, whether it was clicked, and the items
        before.
    """
    from equipoise.workflows.clicks.fitting import fit_clicks

    one_thread()
    with console.status("reading") as status:
        outcome = fit_clicks(data, request, progress=status.update)
    table = Table("training", "log loss", "AUC", "GAUC", "epoch", box=None, header_style="bold")
    for name, found in outcome.metrics["methods"].items():
        gauc = "-" if found["gauc"] is None else f"{found['gauc']:.4f}"
        table.add_row(name, f"{found['log_loss']:.4f}", f"{found['auc']:.4f}", gauc, str(found["best_epoch"]))
    table.add_row("always the rate", f"{outcome.metrics['log_loss_of_the_rate']:.4f}", "0.5000", "-", "-")
    console.print(table)
    console.print(f"kept: {outcome.metrics['chosen']}, of the least validation log loss")
    print_path("model", outcome.folder / "model")
