"""The real claims run, in quick mode on one seed; verdicts that depend on a busy machine's clock are not asserted."""

import dataclasses

import pytest
import torch

from equipoise.claims import available_claims, claims_page, load_claim, run_claim


@pytest.fixture(autouse=True)
def _one_thread():
    """Small tensors on a machine that others use too: a second thread would only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


EXACT = {"multiclass-auc": "the same value and gradient", "tpauc": "(concave) is an upper bound"}


@pytest.mark.usefixtures("plain_inputs")  # thousands of training steps, each of which would be checked
@pytest.mark.parametrize("slug", available_claims())
def test_a_claim_runs_on_its_first_seed_and_what_is_certain_is_supported(slug):
    claim = load_claim(slug)
    first = tuple(dataclasses.replace(experiment, quick_seeds=1) for experiment in claim.experiments)
    result = run_claim(dataclasses.replace(claim, experiments=first), quick=True)
    assert f"## {slug}" in claims_page([result])
    if slug in EXACT:
        certain = [part for part in result.parts if EXACT[slug] in part.statement]
        assert len(certain) >= 4
        assert all(part.verdict == "supported (quick)" for part in certain), certain


@pytest.mark.parametrize("slug", available_claims())
def test_seeds_are_distinct_and_every_part_names_arms_that_run(slug):
    claim = load_claim(slug)
    for experiment in claim.experiments:
        assert len(set(experiment.seeds)) == len(experiment.seeds)
        assert experiment.parts
    assert len({experiment.name for experiment in claim.experiments}) == len(claim.experiments)
