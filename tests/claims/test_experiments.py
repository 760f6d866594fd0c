"""The real claims run, in quick mode on one seed; verdicts that depend on a busy machine's clock are not asserted."""

import pytest
import torch

from equipoise.claims import available_claims, claims_page, judge_claim, load_claim, run_claim


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
def test_a_claim_runs_on_its_first_seed_and_what_is_certain_is_kept(slug):
    claim = load_claim(slug)
    result = judge_claim(claim, run_claim(claim, quick=True))
    assert f"## {slug}" in claims_page([result])
    if slug in EXACT:
        certain = [part for part in result.parts if EXACT[slug] in part.statement]
        assert len(certain) >= 4
        assert all(part.recorded.wins == part.recorded.seeds == 1 for part in certain), certain
