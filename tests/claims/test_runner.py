"""The harness: same seeds for all arms, the oriented paired difference, two blocks, and a result on paper."""

import dataclasses
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
    judge_again,
    judge_claim,
    load_claim,
    run_claim,
    run_claims,
    write_result,
)
from equipoise.claims import page as page_module
from equipoise.claims import runner as runner_module
from equipoise.claims.lab.tuning import Tuning, grid
from equipoise.claims.loading import measuring_code


def _toy(seed, quick):
    noise = (seed * 7919 % 13) / 1000
    flipping = 0.05 if seed < 100 else -0.05
    return {
        "old": {"score": 0.8 + noise, "error": 0.2, "exact": 0.0, "lucky": 0.0},
        "new": {"score": 0.85 + noise, "error": 0.1, "exact": 1e-12 if seed else math.inf, "lucky": flipping},
    }


PARTS = (
    Gain("new scores higher", "new", "old", "score", 0.01),
    Gain("new errs less", "new", "old", "error", 0.01, higher_is_better=False),
    Gain("old scores higher", "old", "new", "score", 0.01),
    Gain("new is luckier", "new", "old", "lucky", 0.01),
    Gain("errors compared", "old", "new", "error", 0.01, asserted=False),
    Bound("new is exact", "new", "exact", at_most=1e-9),
    Bound("luck of the new", "new", "lucky", at_least=0.0),
    Bound("error of the new", "new", "error", at_most=1.0, asserted=False),
)
TOY = Claim(
    slug="tpauc",
    statement="The new is better.",
    experiments=(Experiment("Toy", "Made-up numbers.", _toy, PARTS, seeds=(3, 1, 4, 2, 5)),),
    caveats=("Nothing real.",),
)
FRESH = range(100, 110)


@pytest.fixture
def toy(monkeypatch):
    """The toy in the place of the paper's claim."""
    for module in (runner_module, page_module):
        monkeypatch.setattr(module, "load_claim", lambda slug: dataclasses.replace(TOY, slug=slug))


def _verdicts(result):
    return {part.statement: part.verdict for part in result.parts}


def test_differences_are_paired_and_oriented_and_one_block_decides_nothing_but_a_broken_bound():
    result = judge_claim(TOY, run_claim(TOY))
    assert set(_verdicts(result).values()) == {"not yet repeated", "reported"}
    first, third = result.parts[0], result.parts[2]
    assert first.recorded.verdict == "supported"
    assert first.recorded.value == pytest.approx(0.05)
    assert (first.recorded.low, first.recorded.high) == pytest.approx((0.05, 0.05))  # a seed's noise is in both arms
    assert (first.recorded.wins, first.recorded.seeds) == (5, 5)
    assert (third.recorded.verdict, third.recorded.wins) == ("not supported", 0)
    assert first.fresh is None
    assert result.recorded.experiments["Toy"].seeds == [3, 1, 4, 2, 5]
    broken = judge_claim(TOY, run_claim(TOY, seeds=range(5)))
    assert _verdicts(broken)["new is exact"] == "not supported"


def test_both_blocks_make_the_verdict():
    result = judge_claim(TOY, run_claim(TOY), run_claim(TOY, seeds=FRESH))
    assert _verdicts(result) == {
        "new scores higher": "supported",
        "new errs less": "supported",
        "old scores higher": "not supported",
        "new is luckier": "inconclusive",  # its sign flips between the blocks
        "errors compared": "reported",
        "new is exact": "supported",
        "luck of the new": "not supported",
        "error of the new": "reported",
    }
    assert result.summary == "3 supported, 2 not supported, 2 reported, 1 inconclusive"
    assert result.parts[0].fresh.seeds == 10


def test_more_seeds_are_run_where_the_spread_of_an_asserted_gain_is_large():
    def noisy(seed, quick):
        return {"old": {"score": 0.0}, "new": {"score": float(seed % 3)}}

    gain = Gain("higher", "new", "old", "score", 0.1)
    for part, seeds in ((gain, list(range(10))), (dataclasses.replace(gain, asserted=False), list(range(5)))):
        claim = Claim("tpauc", "s", (Experiment("e", "p", noisy, (part,)),))
        assert run_claim(claim).experiments["e"].seeds == seeds
        assert run_claim(claim, quick=True).experiments["e"].seeds == [0]
        assert run_claim(claim, seeds=range(50, 56)).experiments["e"].seeds == list(range(50, 56))


def test_a_quick_run_has_no_verdict_and_says_so():
    result = judge_claim(TOY, run_claim(TOY, quick=True))
    assert result.recorded.experiments["Toy"].seeds == [3]
    assert result.summary == "6 quick, 2 reported"
    assert "A quick run" in claims_page([result])


def test_progress_is_told():
    lines = []
    run_claim(TOY, quick=True, progress=lines.append)
    assert lines == ["tpauc: Toy, seed 3"]


def test_settings_are_chosen_once_and_taken_by_the_fresh_block(toy, tmp_path, monkeypatch):
    tried = []
    tuning = Tuning({"new": grid(rate=(1.0, 2.0))}, lambda arm, s, seed: tried.append(s) or s["rate"])

    def run(seed, quick, settings):
        return {"new": {"rate": settings["new"]["rate"]}}

    parts = (Bound("rate", "new", "rate", at_least=2.0),)
    claim = Claim("tpauc", "s", (Experiment("e", "p", run, parts, tuning=tuning),))
    monkeypatch.setattr(runner_module, "load_claim", lambda slug: claim)
    run_claims(["tpauc"], output=tmp_path)
    (result,) = run_claims(["tpauc"], seeds=FRESH, output=tmp_path)
    assert len(tried) == 2 * 3
    assert _verdicts(result) == {"rate": "supported"}
    assert "| new | 2 ± 0 | rate 2 |" in (tmp_path / "claims.md").read_text()


def test_the_page_shows_the_statement_the_measures_and_both_blocks():
    page = claims_page([judge_claim(TOY, run_claim(TOY), run_claim(TOY, seeds=FRESH))])
    assert "## tpauc" in page
    assert "| new | 0.85" in page
    assert "Recorded block, seeds 3, 1, 4, 2, 5:" in page
    assert "Fresh block, seeds 100, 101," in page
    block = "+0.0500 [+0.0500, +0.0500]"
    found = f"{block}, 5/5: supported | {block}, 10/10: supported"
    assert f"| new scores higher | {found} | interval above 0, mean ≥ 0.01 | **supported** |" in page
    assert "| worst 1.00e-12, 5/5: supported | worst 1.00e-12, 10/10: supported | ≤ 1e-09 on every seed |" in page
    assert "- Nothing real." in page
    assert "| new scores higher | not run | not run |" in claims_page([judge_claim(TOY)])


def test_a_result_goes_to_json_and_back_even_with_infinity(tmp_path):
    result = judge_claim(TOY, run_claim(TOY, seeds=range(5)))
    assert _verdicts(result)["new is exact"] == "not supported"
    write_result(result, tmp_path)
    text = (tmp_path / "claims" / "tpauc.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert '"inf"' in text
    assert page_module.read_result(tmp_path, "tpauc") == ClaimResult.from_dict(result.to_dict()) == result


def test_the_page_is_made_of_all_results_in_the_folder_in_the_catalogue_order(toy, tmp_path):
    for slug in ("tpauc", "multiclass-auc"):
        run_claims([slug], quick=True, output=tmp_path)
    page = (tmp_path / "claims.md").read_text()
    assert page.index("## multiclass-auc") < page.index("## tpauc")
    run_claims(["tpauc"], output=tmp_path)
    page = (tmp_path / "claims.md").read_text()
    assert page.count("## tpauc") == page.count("A quick run") == 1
    found = sorted(path.name for path in tmp_path.rglob("*"))
    assert found == ["claims", "claims.md", "multiclass-auc.json", "tpauc.json"]


@pytest.mark.parametrize("blocks", [((), FRESH), (FRESH, ())])
def test_the_blocks_are_joined_in_either_order(toy, tmp_path, blocks):
    for seeds in blocks:
        (result,) = run_claims(["tpauc"], seeds=seeds, output=tmp_path)
    assert (result.recorded.experiments["Toy"].seeds, result.parts[0].verdict) == ([3, 1, 4, 2, 5], "supported")


def test_a_block_that_other_code_measured_is_not_counted(toy, tmp_path, monkeypatch):
    run_claims(["tpauc"], output=tmp_path)
    for module in (runner_module, page_module):
        monkeypatch.setattr(module, "fingerprint", lambda claim: "changed")
    (result,) = run_claims(["tpauc"], seeds=FRESH, output=tmp_path)
    assert result.recorded is None
    assert _verdicts(result)["new scores higher"] == "not yet repeated"


def test_what_is_judged_may_change_without_a_run(toy, tmp_path, monkeypatch):
    run_claims(["tpauc"], output=tmp_path)
    run_claims(["tpauc"], seeds=FRESH, output=tmp_path)
    asked = Gain("new is much higher", "new", "old", "score", 0.2)
    experiment = dataclasses.replace(TOY.experiments[0], parts=(asked,))
    monkeypatch.setattr(page_module, "load_claim", lambda slug: dataclasses.replace(TOY, experiments=(experiment,)))
    (result,) = judge_again(tmp_path)
    assert _verdicts(result) == {"new is much higher": "not supported"}
    assert page_module.read_result(tmp_path, "tpauc") == result
    assert "new is much higher" in (tmp_path / "claims.md").read_text()


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (range(100, 104), "at least 5"),
        ((100, 100, 101, 102, 103), "distinct"),
        (range(5, 15), r"\[5, 6, 7, 8, 9, 10\]"),
    ],
)
def test_a_fresh_block_is_large_enough_and_fresh(toy, tmp_path, seeds, message):
    with pytest.raises(ValueError, match=message):
        run_claims(["tpauc"], seeds=seeds, output=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_file_of_something_else_is_named_before_anything_is_run(toy, tmp_path):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "tpauc.json").write_text('{"slug": "tpauc"}')
    with pytest.raises(ValueError, match=r"tpauc\.json is no result of this version"):
        run_claims(["tpauc"], output=tmp_path)


def test_the_fingerprint_follows_the_numbers_and_not_the_words():
    imports = "from equipoise.claims.lab.digits import train"
    source = f'"""Words."""\n{imports}\n\n# why\nRATE = 0.1\nCLAIM = Claim(\n    "x",\n)\n'
    code = measuring_code(source)
    assert code == (f"{imports}\nRATE = 0.1", {"equipoise.claims.lab.digits"})
    for same in (("Words", "Others"), ("# why", "# what"), ('"x"', '"y"'), ("\n\n", "\n")):
        assert measuring_code(source.replace(*same)) == code
    assert measuring_code(source.replace("0.1", "0.2")) != code


def test_an_unknown_slug_is_met_before_anything_is_run(tmp_path):
    with pytest.raises(ValueError, match="did you mean 'tpauc'"):
        run_claims(["multiclass-auc", "tpac"], output=tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_planned_paper_has_no_claim_to_run(monkeypatch):
    row = dataclasses.replace(next(iter(load_catalog())), provides=(), status="planned")
    monkeypatch.setattr("equipoise.claims.loading.find_paper", lambda slug: row)
    planned = row.slug
    with pytest.raises(ValueError, match="planned and has no claim yet; those that run: multiclass-auc"):
        load_claim(planned)


def test_the_working_papers_can_be_run():
    assert available_claims() == [paper.slug for paper in load_catalog() if paper.working]
