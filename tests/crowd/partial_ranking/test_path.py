import math

import numpy as np
import pytest
import torch

from equipoise.crowd import SplitPath, SplitState, split_lbi_path, split_lbi_step
from equipoise.crowd.partial_ranking import path_run
from equipoise.crowd.partial_ranking.split_lbi import Steps, default_steps
from equipoise.crowd.partial_ranking.tie_mle import TieMLE
from equipoise.crowd.partial_ranking.tie_table import TieTable
from equipoise.data import Comparisons, simulate_partial_rankings

WORLD = simulate_partial_rankings(12, 6, comparisons_per_user=(80, 120), seed=3)
SAID = WORLD.comparisons


def _same(one, other):
    for name in ("times", "losses", "common", "gamma_norm", "personal_norm", "entry_time"):
        assert getattr(one, name).equal(getattr(other, name)), name
    for name in ("gamma", "personal", "state"):
        assert all(a.equal(b) for a, b in zip(getattr(one, name), getattr(other, name), strict=True)), name
    assert (one.steps, one.settings) == (other.steps, other.settings)


def test_the_path_is_its_steps(monkeypatch):
    monkeypatch.setattr(path_run, "_MOST_CHANGE", None)
    steps = default_steps(TieTable(SAID), 1.0, 10.0, "per_user")
    times = torch.tensor([10.0, 20.5]) * steps.time
    path = split_lbi_path(SAID, times=times)
    state = SplitState.start(TieMLE().fit(SAID).common, SAID.num_annotators)
    for count in range(21):
        # The last of the second stretch is half a step.
        share = {20: 0.5}.get(count, 1.0)
        options = {"step": steps.time * share, "common_step": steps.common * share}
        state = split_lbi_step(state, SAID, scale="per_user", **options)
        if count == 9:
            torch.testing.assert_close(path.common[0], state.common)
            torch.testing.assert_close(path.scores(0), state.common + state.personal, rtol=1e-5, atol=1e-6)
    for mine, wanted in zip(path.state, state, strict=True):
        torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(path.gamma_at().double(), state.gamma, rtol=1e-5, atol=1e-6)


def test_people_who_differ_leave_first_and_what_is_recorded_agrees():
    path = split_lbi_path(SAID, num_times=15, kappa=3.0)
    entry, odd = path.entry_time, WORLD.abnormal
    assert 0 < int(odd.sum()) < 12
    assert entry[odd].max() < entry[~odd].min()
    assert (path.support == (entry[None] <= path.times[:, None])).all()
    assert path.support[-1].sum() >= path.support[0].sum()
    for k in (0, 7, 14):
        torch.testing.assert_close(path.gamma_at(k).norm(dim=1), path.gamma_norm[k])
        dense, sparse = path.scores(k), path.scores(k, "sparse")
        inside = path.support[k]
        assert dense[inside].equal(sparse[inside])
        assert sparse[~inside].equal(path.common[k].expand(int((~inside).sum()), -1))
    scored = path.scores(-1)
    assert path.losses[-1] == pytest.approx(TieTable(SAID).loss(scored), rel=1e-5)
    assert path.losses[-1] < path.losses[0]


def test_the_first_entry_follows_the_gradient():
    # When ν is small the deviations hardly move, so that the dual grows along the gradient.
    first = path_run.first_entry(TieTable(SAID), SplitState.start(TieMLE().fit(SAID).common, 12), Steps(1.0, 1.0, 12.0))
    path = split_lbi_path(SAID, times=torch.tensor([1.3 * first]), nu=0.01, kappa=2.0)
    assert path.entry_time.min() == pytest.approx(first, rel=0.05)


def test_going_on_is_going_through():
    whole = split_lbi_path(SAID, num_times=12, time_ratio=8.0)
    half = split_lbi_path(SAID, times=whole.times[:7])
    _same(split_lbi_path(SAID, times=whole.times[7:], resume=half), whole)


def test_going_on_by_a_ratio_ends_at_the_ratio_of_the_first_time():
    begun = split_lbi_path(SAID, num_times=5, time_ratio=2.0)
    more = split_lbi_path(SAID, num_times=4, time_ratio=4.0, resume=begun)
    assert len(more) == 9
    assert float(more.times[-1] / more.times[0]) == pytest.approx(4.0)


def test_both_scales_let_users_leave_in_the_same_order():
    small = simulate_partial_rankings(5, 4, comparisons_per_user=(60, 60), abnormal_share=0.6, seed=4).comparisons
    orders = []
    for scale in ("per_user", "mean"):
        path = split_lbi_path(small, num_times=10, scale=scale, kappa=2.0)
        orders.append(path.entry_time.argsort()[: int(path.entry_time.isfinite().sum())])
        assert len(orders[-1]) >= 2
    assert orders[0][:2].equal(orders[1][:2])


def test_memory_is_that_of_the_support():
    path = split_lbi_path(SAID, num_times=10, time_ratio=6.0, keep_dense=False)
    assert len(path.gamma.time) == int(path.support.sum())
    assert len(path.personal.time) == int(path.support[:-1].sum()) + 12
    full = split_lbi_path(SAID, num_times=10, time_ratio=6.0)
    for k in range(10):
        assert path.scores(k, "sparse").equal(full.scores(k, "sparse"))
    assert path.scores().equal(full.scores())
    with pytest.raises(ValueError, match="dense deviations at index 2 were not kept"):
        path.scores(2)


def test_a_path_is_saved_and_goes_on(tmp_path):
    path = split_lbi_path(SAID, num_times=6, time_ratio=6.0)
    path.save(tmp_path / "path")
    loaded = SplitPath.load(tmp_path / "path")
    _same(loaded, path)
    later = path.times[-1:] * 1.2
    _same(split_lbi_path(SAID, times=later, resume=loaded), split_lbi_path(SAID, times=later, resume=path))
    (tmp_path / "path" / "path.json").write_text("{}")
    with pytest.raises(ValueError, match="does not hold a path"):
        SplitPath.load(tmp_path / "path")


def test_the_table_has_a_row_per_time_and_user():
    path = split_lbi_path(SAID, num_times=4, time_ratio=6.0)
    table = path.table()
    assert len(table) == 4 * 12
    row = table[(table.user == 5) & np.isclose(table.time, float(path.times[2]))].iloc[0]
    assert row.gamma_norm == path.gamma_norm[2, 5]
    assert row.in_support == bool(path.support[2, 5])


def test_times_are_found():
    path = split_lbi_path(SAID, num_times=4, time_ratio=6.0)
    assert [path.index(float(time)) for time in path.times] == [0, 1, 2, 3]
    assert path.index(math.inf) == 3
    with pytest.raises(ValueError, match="lies before"):
        path.index(0.0)
    with pytest.raises(IndexError, match="none of the 4"):
        path.scores(4)


def test_a_step_too_long_is_warned_of_and_halved():
    with pytest.warns(UserWarning, match="step=1 is longer than"):
        path = split_lbi_path(SAID, num_times=4, step=1.0)
    assert path.steps.time < 1.0
    assert path.losses.isfinite().all()


@pytest.mark.usefixtures("plain_inputs")
def test_bad_times_and_paths_are_refused():
    with pytest.raises(ValueError, match="times must ascend from above 0, got 1 at index 1"):
        split_lbi_path(SAID, times=torch.tensor([2.0, 1.0]))
    path = split_lbi_path(SAID, num_times=3, time_ratio=2.0)
    with pytest.raises(ValueError, match="resume is of 12 users and 6 items"):
        split_lbi_path(Comparisons.from_columns([0], [0], [1], [1]), resume=path)
    with pytest.raises(ValueError, match="times must ascend from above"):
        split_lbi_path(SAID, times=path.times, resume=path)
    alike = Comparisons.from_columns([0, 0, 0], [0, 0, 0], [1, 1, 1], [1, 0, -1])
    with pytest.raises(ValueError, match="no user differs from the consensus"):
        split_lbi_path(alike)
    of_one = SAID.take((SAID.annotator == 0).nonzero()[:, 0])
    alone = Comparisons.from_columns(None, of_one.left, of_one.right, of_one.label)
    with pytest.raises(ValueError, match="no user differs from the consensus"):
        split_lbi_path(alone)
