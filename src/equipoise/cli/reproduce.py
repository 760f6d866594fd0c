"""`equipoise reproduce`."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from equipoise.cli.terminal import console, one_thread, print_path
from equipoise.workflows.errors import InputError, mendable


def reproduce(
    name: str | None = None,
    /,
    *,
    all_claims: bool = False,
    quick: bool = False,
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
    one_thread()
    with console.status("running") as status:
        results = run_claims(slugs, quick=quick, output=output, progress=status.update)
    for result in results:
        table = Table("statement", "found", "seeds", "verdict", title=result.slug, box=None, header_style="bold")
        for part in result.parts:
            table.add_row(part.statement, f"{part.value:+.4g}", f"{part.wins}/{part.seeds}", part.verdict)
        console.print(table)
    print_path("claims", output / "claims.md")
