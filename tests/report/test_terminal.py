import dataclasses
import io

from rich.console import Console

from equipoise.report import contest_markdown, terminal_table
from report.examples import contest, evaluation_report, fit_report


def printed(report, width=160):
    console = Console(width=width, file=io.StringIO())
    console.print(terminal_table(report))
    return console.file.getvalue()


def test_a_fit_in_the_terminal_ends_with_the_verdict():
    text = printed(fit_report())
    for words in ("0.830 [0.812, 0.848]", "+0.021 [+0.003, +0.039]", "reference", "0.844 [0.789, 0.900]", "1.23456"):
        assert words in text
    assert "needs 2,995 negatives" in text
    assert "warning: Few positives." in text
    assert text.strip().endswith("mlp · auc won; plain log loss would not have done.")


def test_an_evaluation_in_the_terminal_ends_with_the_answer():
    text = printed(evaluation_report())
    assert "0.930 [0.910, 0.950]" in text
    assert text.strip().endswith("Highest AUROC: new. Better than old.")


def test_brackets_in_names_are_not_read_as_styles():
    rows = (dataclasses.replace(contest(1)[0], name="[red]mlp[/red]"),)
    assert "[red]mlp[/red]" in printed(fit_report(contest=rows, verdict="[/] done"))
    assert "[/] done" in printed(fit_report(contest=rows, verdict="[/] done"))


def test_a_narrow_terminal_keeps_every_letter():
    text = "".join(printed(fit_report(), width=60).split())
    assert "0.830[0.812,0.848]" in text or "[0.812," in text


def test_the_markdown_table_escapes_what_would_break_it():
    rows = (dataclasses.replace(contest(2)[0], name="a|b_c*\n<d>"), contest(2)[1])
    lines = contest_markdown(fit_report(contest=rows)).splitlines()
    assert lines[2].startswith(r"| **a\|b\_c\* \<d>** | 0.830 [0.812, 0.848] | +0.021")
    assert lines[3].startswith(r"| mlp · cross\_entropy | 0.809 [0.781, 0.837] | reference | 2.5 s |")
    assert lines[-1] == "mlp · auc won; plain log loss would not have done."
