"""The harness: same seeds for all arms, the oriented paired difference, and a result that survives the page."""

import json
import math

import pytest

from equipoise.catalog import load_catalog
from equipoise.claims import (
    Bound,
    Claim,
    ClaimResult,
    Experiment,
    Gain,
    available_claims,
    claims_page,
    load_claim,
    run_claim,
    run_claims,
    write_result,
)
from equipoise.claims import runner as runner_module


def _toy(seed, quick):
    noise = (seed * 7919 % 13) / 1000
    return {
        "old": {"score": 0.8 + noise, "error": 0.2, "exact": 0.0},
        "new": {"score": 0.85 + noise, "error": 0.1, "exact": 1e-12 if seed else math.inf},
    }


TOY = Claim(
    slug="tpauc",
    statement="The new is better.",
    experiments=(
        Experiment(
            name="Toy",
            protocol="Made-up numbers.",
            run=_toy,
            seeds=(3, 1, 4, 2, 5),
            quick_seeds=3,
            parts=(
                Gain("new scores higher", "new", "old", "score", 0.01),
                Gain("new errs less", "new", "old", "error", 0.01, higher_is_better=False),
                Gain("old scores higher", "old", "new", "score", 0.01),
                Gain("errors compared", "old", "new", "error", 0.01, asserted=False),
                Bound("new is exact", "new", "exact", at_most=1e-9),
            ),
        ),
    ),
    caveats=("Nothing real.",),
)


def test_differences_are_paired_and_oriented():
    result = run_claim(TOY)
    verdicts = {part.statement: part.verdict for part in result.parts}
    assert verdicts == {
        "new scores higher": "supported",
        "new errs less": "supported",
        "old scores higher": "not supported",
        "errors compared": "reported",
        "new is exact": "supported",
    }
    first = result.parts[0]
    assert first.value == pytest.approx(0.05)
    assert (first.low, first.high) == pytest.approx((0.05, 0.05))  # the noise of a seed is in both arms
    assert (first.wins, first.seeds) == (5, 5)
    assert result.parts[2].wins == 0
    assert result.experiments[0].seeds == [3, 1, 4, 2, 5]
    assert result.summary == "3 supported, 1 not supported, 1 reported"


def test_quick_mode_takes_the_first_seeds_and_says_so():
    result = run_claim(TOY, quick=True)
    assert result.experiments[0].seeds == [3, 1, 4]
    assert result.summary == "3 supported (quick), 1 not supported (quick), 1 reported"
    page = claims_page([result])
    assert "**supported (quick)**" in page
    assert "3 of 5 seeds: 3, 1, 4" in page
    assert "A quick run" in page


def test_progress_is_told():
    lines = []
    run_claim(TOY, quick=True, progress=lines.append)
    assert lines == [f"tpauc: Toy, seed {k} of 3" for k in (1, 2, 3)]


def test_the_page_shows_the_statement_the_measures_and_every_verdict():
    page = claims_page([run_claim(TOY)])
    assert "## tpauc" in page
    assert "| new | 0.85" in page
    assert (
        "| new scores higher | +0.0500 [+0.0500, +0.0500] | 5/5 | interval above 0, mean ≥ 0.01 | **supported** |"
        in page
    )
    assert "| new is exact | worst 1.00e-12 | 5/5 | ≤ 1e-09 on every seed | **supported** |" in page
    assert "- Nothing real." in page


def test_a_result_goes_to_json_and_back_even_with_infinity(tmp_path):
    broken = Claim(
        "tpauc", "s", (Experiment("Toy", "p", _toy, (0, 1), 1, (Bound("exact", "new", "exact", at_most=1e-9),)),)
    )
    result = run_claim(broken)
    assert result.parts[0].verdict == "not supported"
    write_result(result, tmp_path)
    text = (tmp_path / "claims" / "tpauc.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert '"inf"' in text
    assert ClaimResult.from_dict(result.to_dict()) == result


def test_the_page_is_made_of_all_results_in_the_folder_in_the_catalogue_order(tmp_path):
    other = Claim("multiclass-auc", "Other.", TOY.experiments)
    for claim in (TOY, other):
        write_result(run_claim(claim, quick=True), tmp_path)
    page = (tmp_path / "claims.md").read_text()
    assert page.index("## multiclass-auc") < page.index("## tpauc")
    write_result(run_claim(TOY), tmp_path)
    page = (tmp_path / "claims.md").read_text()
    assert page.count("## tpauc") == 1
    assert page.count("A quick run") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "claims",
        "claims.md",
        "multiclass-auc.json",
        "tpauc.json",
    ]


def test_run_claims_writes_what_it_returns(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module, "load_claim", lambda slug: TOY)
    results = run_claims(["tpauc"], quick=True, output=tmp_path / "new")
    assert [result.slug for result in results] == ["tpauc"]
    assert (tmp_path / "new" / "claims.md").is_file()


def test_an_unknown_slug_is_met_before_anything_is_run(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'tpauc'"):
        run_claims(["multiclass-auc", "tpac"], output=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_planned_paper_has_no_claim_to_run():
    planned = next(paper.slug for paper in load_catalog() if not paper.provides)
    with pytest.raises(ValueError, match="planned and has no claim yet; those that run: multiclass-auc"):
        load_claim(planned)


def test_the_working_papers_can_be_run():
    assert available_claims() == [paper.slug for paper in load_catalog() if paper.working]
