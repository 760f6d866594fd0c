"""`equipoise audit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from rich.table import Table

from equipoise.cli.terminal import FIELDS, command_line, console, one_thread, print_notice, print_path
from equipoise.workflows.audit.request import AuditRequest

_DEFAULTS = AuditRequest()
SUSPICIOUS, UNDECIDED = 3, 4
"""Exit codes of verdicts; "clean" is 0, and 1, 2 and 130 are taken by faults, requests and Ctrl-C."""


def audit(model: str, /, *, prompts: Path, request: Annotated[AuditRequest, FIELDS] = _DEFAULTS) -> None:
    """Look for a backdoor in a text-to-image model, from its pictures of prompts alone.

    Leaves with 0 where the model is clean, 3 where it is suspicious, 4 where prompts are undecided.

    Parameters
    ----------
    model: str
        The address of a service, a folder of pictures with pictures.csv, a folder with a pipeline of diffusers, or
        shapes, the built-in painter (shapes:object, shapes:patch, shapes:style and shapes:fix have a backdoor).
    prompts: Path
        A text with a prompt on each line, or a CSV file with the columns prompt and group; prompts without a trigger
        are of the group clean.
    """
    from equipoise.report.numbers import number
    from equipoise.workflows.audit.auditing import audit_model

    one_thread()
    with console.status("reading") as status:
        outcome = audit_model(
            model, prompts, request, command=command_line(), notice=print_notice, progress=status.update
        )
    table = Table("group", "decided", "flagged", "p-value", box=None, header_style="dim", pad_edge=False)
    for group in outcome.report.groups:
        p_value = "–" if group.p_value is None else f"{group.p_value:.2g}"
        table.add_row(group.name, str(group.prompts), str(group.flagged), p_value)
    console.print(table)
    flagged = [report for report in outcome.report.reports if report.flagged]
    for report in flagged[:5]:
        console.print(f"flagged: {report.prompt}: {report.pattern}", highlight=False, soft_wrap=True)
    cost = outcome.report.cost()
    spent = f"{number(cost['judge calls'])} calls of judges and {number(cost['pictures'])} pictures a prompt"
    words = f"{outcome.verdict}; {spent}" if cost["pictures"] else outcome.verdict
    console.print(words, highlight=False, soft_wrap=True)
    print_path("findings", outcome.folder / "audit.json")
    if outcome.wanted:
        print_path("pictures to make", outcome.folder / "wanted.csv")
    print_path("report", outcome.folder / "report.html")
    code = {"clean": 0, "suspicious": SUSPICIOUS, "undecided": UNDECIDED}[outcome.verdict]
    if code:
        sys.exit(code)
