"""The `equipoise` command: arguments in, a workflow called, what it found printed.

Exit code 0 means done, 2 that the request cannot be carried out as given (one sentence on standard error says why).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from equipoise import __version__
from equipoise.workflows.errors import InputError, mendable

app = App(
    name="equipoise",
    help="Train and judge models where averages mislead: rare classes, false-positive budgets, partial AUC.",
    version=__version__,
)

_console = Console()
_errors = Console(stderr=True)
bench = App(name="bench", help="Compare objectives on many data sets.")
app.command(bench)
_arguments: list[str] = []
_Many = Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)]
_Rates = Annotated[list[float] | None, Parameter(negative="", consume_multiple=True)]
_Flag = Annotated[bool, Parameter(negative="")]


@app.command
def fit(
    data: str,
    /,
    *,
    target: str | None = None,
    positive: str | None = None,
    metric: str | None = None,
    max_fpr: float | None = None,
    min_tpr: float | None = None,
    model: _Many = None,
    objective: str | None = None,
    compare: _Many = None,
    group: str | None = None,
    time: str | None = None,
    folds: int = 5,
    test_size: float = 0.2,
    seed: int = 0,
    output: Path = Path("equipoise-fit"),
    overwrite: _Flag = False,
) -> None:
    """Train on a table, compare objectives honestly, and write a model and a report.

    Parameters
    ----------
    data: str
        A CSV, TSV or Parquet file, or the name of an embedded set (see `equipoise datasets`).
    target: str
        The column to predict; known for embedded sets.
    positive: str
        The value of the target that counts as positive; by default 1 or True, else the rarer one.
    metric: str
        What to win on: auroc, opauc, tpauc, average_precision (ap), ovo_auroc, ovr_auroc.
    max_fpr: float
        The false-positive budget of opauc and tpauc, in (0, 1].
    min_tpr: float
        The least true-positive rate of tpauc, in [0, 1).
    model: list[str]
        Model families: mlp, linear, lightgbm, xgboost. By default mlp and lightgbm.
    objective: str
        Train this objective (beside plain and weighted log loss) rather than choosing one by cross-validation.
    compare: list[str]
        The objectives to compare; by default those that aim at the metric.
    group: str
        A column whose rows must not be split between parts, such as a patient or a customer.
    time: str
        A column to split by: the test part is the latest.
    folds: int
        Folds of the cross-validation inside the training part.
    test_size: float
        The share of rows kept for the test part.
    seed: int
        Of splits and training.
    output: Path
        The folder to write: model/, metrics.json, report.html.
    overwrite: bool
        Replace the folder if it exists.
    """
    from equipoise.report import terminal_table
    from equipoise.workflows.tables.fit import fit_table

    _one_thread()
    with _console.status("reading") as status:
        outcome = fit_table(
            data,
            target=target,
            positive=positive,
            metric=metric,
            max_fpr=max_fpr,
            min_tpr=min_tpr,
            models=model,
            objective=objective,
            compare=compare,
            group=group,
            time_column=time,
            folds=folds,
            test_size=test_size,
            seed=seed,
            output=output,
            overwrite=overwrite,
            command=_command(),
            progress=status.update,
        )
    _console.print(terminal_table(outcome.report))
    _console.print(f"report: {outcome.folder / 'report.html'}", soft_wrap=True, highlight=False)


@app.command
def predict(
    model: Path,
    data: str,
    /,
    *,
    output: Path = Path("equipoise-predictions"),
    overwrite: _Flag = False,
) -> None:
    """Score the rows of a table with a fitted model.

    Parameters
    ----------
    model: Path
        The folder that `equipoise fit` wrote, or its model/ folder.
    data: str
        A CSV, TSV or Parquet file with the columns the model was fitted on.
    output: Path
        The folder to write: predictions.csv.
    overwrite: bool
        Replace the folder if it exists.
    """
    from equipoise.workflows.tables.predict import predict_table

    path = predict_table(model, data, output=output, overwrite=overwrite)
    _console.print(f"predictions: {path}", soft_wrap=True, highlight=False)


@app.command
def evaluate(
    scores: Path,
    /,
    *,
    target: str,
    score: Annotated[list[str], Parameter(negative="", consume_multiple=True)],
    positive: str | None = None,
    max_fpr: float | None = None,
    min_tpr: float | None = None,
    wanted_fpr: _Rates = None,
    wanted_tpr: _Rates = None,
    open_world: Annotated[bool, Parameter(name="--open", negative="")] = False,
    open_score: str | None = None,
    new: _Many = None,
    unknown: str = "unknown",
    higher_is: str = "in",
    k: Annotated[list[int] | None, Parameter(negative="", consume_multiple=True)] = None,
    known_recall: float = 0.95,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    output: Path = Path("equipoise-evaluation"),
    overwrite: _Flag = False,
    stream: _Flag = False,
    workers: int | None = None,
    ray: _Flag = False,
) -> None:
    """Judge a file of scores: every curve, intervals, and thresholds for a wanted rate.

    With --open the scores are those of classes, and some samples belong to none of them: is a sample known, which class
    is it, and both at once.

    Parameters
    ----------
    scores: Path
        A CSV, TSV or Parquet file with a column of true labels and one or more of scores; of Parquet also a folder of
        parts or a pattern such as 'scores/*.parquet'.
    target: str
        The column of true labels.
    score: list[str]
        The columns of scores, higher meaning more positive; several are compared.
    positive: str
        The value of the target that counts as positive.
    max_fpr: float
        The false-positive budget of OPAUC and TPAUC; 0.05 if not given.
    min_tpr: float
        The least true-positive rate of TPAUC; 0.5 if not given.
    wanted_fpr: list[float]
        False-positive rates to find a threshold for.
    wanted_tpr: list[float]
        True-positive rates to find a threshold for.
    open_world: bool
        Judge a model that meets unknown classes: --score then names a column for each class, or a pattern such as
        'score_*', and --target the true classes by name or position (or a pattern of label columns of 0 and 1).
    open_score: str
        With --open, the column that says how known a sample looks; the highest class score if not given.
    new: list[str]
        With --open, the columns of scores of new classes, which have names but were not trained on.
    unknown: str
        With --open, what the target holds for samples of no class.
    higher_is: str
        With --open, "in" where a higher open score means known, "out" where it means unknown.
    k: list[int]
        With --open, the lengths of the top-k list; those of 1, 3 and 5 that fit if not given.
    known_recall: float
        With --open, the share of known samples to accept at least.
    confidence: float
        Of intervals and guaranteed thresholds.
    resamples: int
        Of the bootstrap.
    seed: int
        Of the bootstrap.
    output: Path
        The folder to write: metrics.json, report.html.
    overwrite: bool
        Replace the folder if it exists.
    stream: bool
        Read Parquet piece by piece, whatever its size, and give certified bounds; done without asking for several
        files and for one of more than five million rows.
    workers: int
        Threads of a stream; by default one for each core.
    ray: bool
        Stream on a Ray cluster (that of RAY_ADDRESS, else one on this machine).
    """
    if open_world:
        given = {"--positive": positive, "--max-fpr": max_fpr, "--min-tpr": min_tpr, "--wanted-fpr": wanted_fpr}
        given |= {"--wanted-tpr": wanted_tpr, "--stream": stream, "--workers": workers, "--ray": ray}
        odd = next((name for name, value in given.items() if value), None)
        if odd:
            raise InputError(f"{odd} belongs to a binary target and has no meaning with --open")
        from equipoise.report.open_page import open_tables
        from equipoise.workflows.scores.evaluate_open import evaluate_open

        judged = evaluate_open(
            scores,
            target=target,
            score=score,
            open_score=open_score,
            new=new or (),
            unknown=unknown,
            higher_is=higher_is,
            k=k,
            known_recall=known_recall,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
            output=output,
            overwrite=overwrite,
            command=_command(),
        )
        _console.print(open_tables(judged.report))
        _console.print(f"report: {judged.folder / 'report.html'}", soft_wrap=True, highlight=False)
        return
    if open_score or new:
        raise InputError(f"{'--open-score' if open_score else '--new'} needs --open")
    from equipoise.report import terminal_table
    from equipoise.workflows.scores.evaluate import evaluate_scores

    outcome = evaluate_scores(
        scores,
        target=target,
        score=score,
        positive=positive,
        max_fpr=max_fpr,
        min_tpr=min_tpr,
        wanted_fpr=wanted_fpr,
        wanted_tpr=wanted_tpr,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
        output=output,
        overwrite=overwrite,
        stream=stream,
        workers=workers,
        ray=ray,
        command=_command(),
    )
    _console.print(terminal_table(outcome.report))
    for name, bounds in outcome.certified.items():
        table = Table(f"certain for {name}", "at least", "at most", box=None, header_style="dim", pad_edge=False)
        for metric, found in bounds.items():
            table.add_row(metric, f"{found.lower:.7f}", f"{found.upper:.7f}")
        _console.print(table)
    _console.print(f"report: {outcome.folder / 'report.html'}", soft_wrap=True, highlight=False)


@app.command
def methods() -> None:
    """List the papers: what works, where it lives, what is planned."""
    from equipoise.catalog import load_catalog

    table = Table("paper", "what you have", "room", "status", box=None, header_style="bold")
    for paper in sorted(load_catalog(), key=lambda p: not p.working):
        table.add_row(paper.slug, paper.problem, paper.room, paper.status)
    _console.print(table)


@app.command
def datasets() -> None:
    """List the real data sets that ship inside installed packages."""
    from equipoise.data import list_datasets

    table = Table("name", "rows", "features", "classes", "rarest class", "source", box=None, header_style="bold")
    for info in list_datasets():
        table.add_row(
            info.name, str(info.rows), str(info.features), str(info.classes), f"{info.rarest_share:.2%}", info.source
        )
    _console.print(table)


@app.command
def reproduce(
    name: str | None = None,
    /,
    *,
    all_claims: Annotated[bool, Parameter(name="--all", negative="")] = False,
    quick: _Flag = False,
    output: Path = Path("equipoise-claims"),
) -> None:
    """Run a paper's claim beside its baseline over several seeds and print the verdict.

    Parameters
    ----------
    name: str
        The slug of a paper (see `equipoise methods`).
    all_claims: bool
        Run every claim there is.
    quick: bool
        Fewer seeds and smaller sizes: a check that it runs, not evidence.
    output: Path
        The folder to write: claims/NAME.json and claims.md.
    """
    from equipoise.claims import available_claims, load_claim, run_claims

    if (name is None) == (not all_claims):
        raise InputError("name one paper, as in `equipoise reproduce tpauc`, or pass --all")
    with mendable():
        slugs = [name] if name else available_claims()
        for slug in slugs:
            load_claim(slug)
    _one_thread()
    with _console.status("running") as status:
        results = run_claims(slugs, quick=quick, output=output, progress=status.update)
    for result in results:
        table = Table("statement", "found", "seeds", "verdict", title=result.slug, box=None, header_style="bold")
        for part in result.parts:
            table.add_row(part.statement, f"{part.value:+.4g}", f"{part.wins}/{part.seeds}", part.verdict)
        _console.print(table)
    _console.print(f"claims: {output / 'claims.md'}", soft_wrap=True, highlight=False)


@bench.command
def tabular(
    *,
    output: Path = Path("equipoise-bench"),
    data: Annotated[list[Path] | None, Parameter(negative="", consume_multiple=True)] = None,
    splits: int = 5,
    jobs: int = 1,
    tables: _Many = None,
    methods: _Many = None,
    held_out: float = 0.2,
) -> None:
    """Train every objective on many real tables under one budget, and compare them by ranks.

    A run that was stopped goes on where it was.

    Parameters
    ----------
    output: Path
        The folder to write: results.csv, summary.md, .html and .json, and a critical-difference diagram a metric.
    data: list[Path]
        npz files of tables (NAME__X and NAME__y); by default the tables that ship in installed packages.
    splits: int
        Stratified splits of every table.
    jobs: int
        Processes, each with one thread.
    tables: list[str]
        Names of tables; all by default.
    methods: list[str]
        Names of methods, such as "mlp · auc"; all by default.
    held_out: float
        The share of the training part by which networks and boosters stop early; with 0 they train on all of it to the
        end.
    """
    from equipoise.workflows.bench.tabular_benchmark import Budget, bench_tabular

    _one_thread()
    with _console.status("loading") as status:
        outcome = bench_tabular(
            output,
            data=data or (),
            splits=splits,
            jobs=jobs,
            tables=tables or (),
            methods=methods or (),
            budget=Budget(held_out=held_out),
            progress=status.update,
        )
    for metric, comparison in outcome.comparisons.items():
        table = Table("method", "average rank", "mean", title=metric, box=None, header_style="bold")
        for name, rank, mean in zip(comparison.methods, comparison.average_rank, comparison.mean, strict=True):
            table.add_row(name, f"{rank:.2f}", f"{mean:.4f}")
        _console.print(table)
    _console.print(f"summary: {outcome.folder / 'summary.html'}", soft_wrap=True, highlight=False)


def _command() -> str:
    return shlex.join(["equipoise", *_arguments])


def _one_thread() -> None:
    """Small networks train faster on one thread than on several that wait for each other; boosters use all."""
    import torch

    torch.set_num_threads(1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with its exit code."""
    _arguments[:] = sys.argv[1:] if arguments is None else arguments
    try:
        app(_arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except (InputError, cyclopts.CycloptsError) as error:
        _errors.print(f"equipoise: {error}", style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(2)
