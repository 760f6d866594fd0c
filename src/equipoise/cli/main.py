"""The `equipoise` command: arguments in, a workflow called, what it found printed.

Exit code 0 means done, 2 that the request cannot be carried out as given (one sentence on standard error says why), and
130 that Ctrl-C stopped it. `audit` leaves with 3 where a model is suspicious and 4 where it cannot be decided.
"""

from __future__ import annotations

import codecs
import io
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from cyclopts import App, CycloptsError

from equipoise import __version__
from equipoise.cli.adapt import adapt
from equipoise.cli.audit import audit
from equipoise.cli.bench import bench
from equipoise.cli.bubble import bubble
from equipoise.cli.clicks import clicks
from equipoise.cli.complete import complete
from equipoise.cli.curate import curate
from equipoise.cli.datasets import datasets
from equipoise.cli.debias import debias
from equipoise.cli.distill import distill
from equipoise.cli.embed import embed
from equipoise.cli.evaluate import evaluate
from equipoise.cli.fit import fit
from equipoise.cli.fuse import fuse
from equipoise.cli.match import match
from equipoise.cli.methods import methods
from equipoise.cli.multitask import multitask
from equipoise.cli.predict import predict
from equipoise.cli.rank import rank
from equipoise.cli.recommend import recommend
from equipoise.cli.reproduce import reproduce
from equipoise.cli.segment import segment
from equipoise.cli.spectrum import spectrum
from equipoise.cli.terminal import EVERYWHERE, arguments, print_notice, print_problem
from equipoise.cli.tune_encoder import tune_encoder
from equipoise.workflows.errors import InputError

app = App(
    name="equipoise",
    help="Train and judge models where averages mislead: rare classes, false-positive budgets, partial AUC.",
    version=__version__,
    default_parameter=EVERYWHERE,
)
_ROOMS = (
    recommend,
    clicks,
    bubble,
    complete,
    rank,
    embed,
    multitask,
    distill,
    adapt,
    spectrum,
    segment,
    fuse,
    match,
    tune_encoder,
    audit,
    curate,
    debias,
)
for command in (fit, predict, evaluate, *_ROOMS, methods, datasets, reproduce, bench):
    app.command(command)


def main(given: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code."""
    arguments[:] = sys.argv[1:] if given is None else given
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_PLAIN)
    try:
        with _interruptible(), _warnings_as_notices():
            # -k, as lists are asked for everywhere.
            tokens = ["--k" if token == "-k" else token for token in arguments]
            app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except (InputError, CycloptsError) as error:
        print_problem(str(error))
        sys.exit(2)
    except (_Interrupted, KeyboardInterrupt):
        print_problem("interrupted before it was done")
        sys.exit(130)


@contextmanager
def _warnings_as_notices() -> Iterator[None]:
    """Warnings for users without the line of code that gave them; those for programmers stay as they are."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category is UserWarning:
            print_notice(str(message))
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        usual = warnings.showwarning
        warnings.showwarning = show
        yield


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What a console of another code page shows for what it lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = {"≤": "<=", "≥": ">=", "−": "-", "–": "-", "…": "...", "·": "|", "∞": "inf"}
    return "".join(plain.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


_PLAIN = "equipoise.plain"
codecs.register_error(_PLAIN, _plainly)


class _Interrupted(BaseException):
    """What Ctrl-C raises here: training loops take a KeyboardInterrupt for their own and exit with 1."""


@contextmanager
def _interruptible() -> Iterator[None]:
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as under nohup, or the caller's
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(*_: object) -> None:
    raise _Interrupted
