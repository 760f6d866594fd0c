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
    seeds: str | None = None,
    quick: bool = False,
    judge: bool = False,
    output: Path = Path("equipoise-claims"),
) -> None:
    """Run a paper's claim beside its baseline over several seeds and print the verdict.

    Parameters
    ----------
    name: str
        The slug of a paper (see `equipoise methods`).
    all_claims: bool
        Run every claim there is.
    seeds: str
        A fresh block of seeds, such as 100-109, in place of the recorded ones. A claim is supported if both say so.
    quick: bool
        Fewer seeds and smaller sizes: a check that it runs, not evidence.
    judge: bool
        Run nothing: judge what the output folder holds anew, by the claims of today.
    output: Path
        The folder to write: claims/NAME.json and claims.md.
    """
    from equipoise.claims import judge_again, run_claims
    from equipoise.claims.runner import plan_claims

    if judge:
        if name or all_claims or seeds or quick:
            raise InputError("--judge runs nothing and judges the whole folder; leave the other options out")
        with mendable():
            results = judge_again(output)
    else:
        if (name is None) == (not all_claims):
            raise InputError("name one paper, as in `equipoise reproduce tpauc`, or pass --all")
        slugs = [name] if name else []
        with mendable():
            fresh = _seeds(seeds)
            plan_claims(slugs, seeds=fresh, quick=quick, output=output)
        one_thread()
        with console.status("running") as status:
            results = run_claims(slugs, seeds=fresh, quick=quick, output=output, progress=status.update)
    for result in results:
        table = Table("statement", "recorded", "fresh", "verdict", title=result.slug, box=None, header_style="bold")
        for part in result.parts:
            blocks = ["" if block is None else str(block) for block in (part.recorded, part.fresh)]
            table.add_row(part.statement, *blocks, part.verdict)
        console.print(table)
    print_path("claims", output / "claims.md")


def _seeds(text: str | None) -> list[int]:
    """The seeds of a text such as `100-109` or `100,103,105-107`."""
    found: list[int] = []
    for piece in filter(None, (text or "").split(",")):
        first, _, last = piece.strip().partition("-")
        if not (first.isdecimal() and (last or first).isdecimal()):
            raise InputError(f"--seeds {text!r} is no range such as 100-109")
        found += range(int(first), int(last or first) + 1)
    return found
