"""The `equipoise` command: arguments in, a workflow called, what it found printed.

Exit code 0 means done, 2 that the request cannot be carried out as given (one sentence on standard error says why).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from equipoise import __version__
from equipoise.cli.bench import bench
from equipoise.cli.datasets import datasets
from equipoise.cli.evaluate import evaluate
from equipoise.cli.fit import fit
from equipoise.cli.methods import methods
from equipoise.cli.predict import predict
from equipoise.cli.reproduce import reproduce
from equipoise.cli.terminal import EVERYWHERE, arguments, errors
from equipoise.workflows.errors import InputError

app = App(
    name="equipoise",
    help="Train and judge models where averages mislead: rare classes, false-positive budgets, partial AUC.",
    version=__version__,
    default_parameter=EVERYWHERE,
)
for command in (fit, predict, evaluate, methods, datasets, reproduce, bench):
    app.command(command)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code."""
    arguments[:] = sys.argv[1:] if given is None else given
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except (InputError, CycloptsError) as error:
        errors.print(f"equipoise: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(2)
