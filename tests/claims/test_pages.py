"""What is on paper is what the claims of today make of what their code measured; nothing is run."""

import re
from pathlib import Path

import pytest

from equipoise.claims import available_claims, judge_claim, load_claim
from equipoise.claims.loading import fingerprint
from equipoise.claims.page import page_of, read_result

DOCS = Path(__file__).parents[2] / "docs"
MEND = "run `equipoise reproduce SLUG --output docs`, or with --judge if only words or parts changed"


@pytest.mark.parametrize("slug", available_claims())
def test_the_json_is_what_the_claim_says_of_numbers_that_its_own_code_measured(slug):
    claim, held = load_claim(slug), read_result(DOCS, slug)
    assert held is not None, MEND
    for run in held.runs.values():
        assert run.fingerprint == fingerprint(claim), f"{slug!r} was measured by other code: {MEND}"
        assert not run.quick
    assert held == judge_claim(claim, held.recorded, held.fresh), MEND


@pytest.mark.parametrize("slug", available_claims())
def test_blocks_are_of_the_seeds_that_were_fixed_and_of_fresh_ones(slug):
    held = read_result(DOCS, slug)
    for experiment in load_claim(slug).experiments:
        planned = [*experiment.seeds, *range(max(experiment.seeds) + 1, max(experiment.seeds) + 10)]
        tuned = experiment.tuning.seeds if experiment.tuning else ()
        if held.recorded is not None:
            seeds = held.recorded.experiments[experiment.name].seeds
            assert seeds == planned[: len(seeds)]
        if held.fresh is not None:
            assert not {*planned, *tuned} & set(held.fresh.experiments[experiment.name].seeds)


def test_the_page_is_that_of_the_json_files():
    assert (DOCS / "claims.md").read_text("utf-8") == page_of(DOCS), MEND


@pytest.mark.parametrize("slug", available_claims())
def test_no_part_is_supported_but_by_two_blocks_and_none_that_is_not_asserted(slug):
    held = read_result(DOCS, slug)
    declared = [p for e in load_claim(slug).experiments for p in e.parts]
    for part, own in zip(held.parts, declared, strict=True):
        assert part.statement == own.statement
        if part.verdict == "supported":
            assert own.asserted
            assert part.recorded.verdict == part.fresh.verdict == "supported"


@pytest.mark.parametrize("slug", available_claims())
def test_no_caveat_says_what_was_found(slug):
    """A caveat is written by hand: it must not say what a table says, or it will contradict one."""
    claim = load_claim(slug)
    found = (
        r"\b(not|nothing) (seen|told|found|shown)|\b(beats?|wins?|loses?|better|worse|gains?|leads?|expected|found)\b"
    )
    for caveat in claim.caveats:
        assert not re.search(found, caveat), caveat
        for experiment in claim.experiments:
            arms = set().union(*(_arms(part) for part in experiment.parts))
            named = [arm for arm in arms if re.search(rf"(?<![\w-]){re.escape(arm)}(?![\w-])", caveat)]
            assert len(named) < 2, f"{caveat!r} compares {named}"


def _arms(part):
    return {getattr(part, name) for name in ("arm", "method", "baseline") if hasattr(part, name)}
