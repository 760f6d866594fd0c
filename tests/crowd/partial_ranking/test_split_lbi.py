import itertools

import numpy as np
import pytest
import torch

from equipoise.crowd import SplitState, group_shrink, split_lbi_step, tie_nll
from equipoise.crowd.partial_ranking.split_lbi import advance, default_steps
from equipoise.crowd.partial_ranking.tie_table import TieTable
from equipoise.data import Comparisons, simulate_partial_rankings

DOUBLE = {"dtype": torch.float64}
LINKS = ("logistic", "normal", "uniform")


def _said(seed=0, users=3, items=4, rows=30):
    """Answers with repetitions, ties, weights, a user who said nothing and an item that nobody saw."""
    generator = np.random.default_rng(seed)
    left = generator.integers(items, size=rows)
    right = (left + generator.integers(1, items, size=rows)) % items
    return Comparisons.from_columns(
        generator.integers(users, size=rows),
        left,
        right,
        generator.integers(-1, 2, size=rows),
        generator.integers(1, 4, size=rows),
        num_annotators=users + 1,
        num_items=items + 1,
    )


def _state(said, seed=0):
    generator = torch.Generator().manual_seed(seed)
    common = torch.cat([torch.randn(said.num_items, generator=generator, **DOUBLE), torch.tensor([0.8], **DOUBLE)])
    parts = torch.randn(3, said.num_annotators, said.num_items + 1, generator=generator, **DOUBLE)
    parts[0, :, -1] = parts[0, :, -1].abs() * 0.5
    return SplitState(common, *parts.unbind())


def _loss(said, common, personal, link):
    """The likelihood with each answer as often as it was given."""
    times = said.weight.long()
    columns = (c.repeat_interleave(times) for c in (said.annotator, said.left, said.right, said.label))
    return tie_nll(*columns, common[:-1], common[-1], personal[:, :-1], personal[:, -1], link)


@pytest.mark.parametrize("link", ["logistic", "normal"])
def test_the_table_has_the_loss_and_gradient_of_the_likelihood(link):
    said = _said()
    state = _state(said)
    personal = state.personal.clone().requires_grad_()
    loss = _loss(said, state.common, personal, link)
    table = TieTable(said, link)
    scores = state.personal + state.common
    assert table.loss(scores) == pytest.approx(float(loss.detach()), rel=1e-12)
    torch.testing.assert_close(table.gradient(scores), torch.autograd.grad(loss, personal)[0])


def _matrices(said):
    rows = np.repeat(np.arange(len(said)), said.weight.long().numpy())
    wide = np.zeros((len(rows), said.num_items + 1))
    wide[np.arange(len(rows)), said.left[rows]] += 1
    wide[np.arange(len(rows)), said.right[rows]] -= 1
    wide[:, -1] = -1
    return said.annotator.numpy()[rows], said.label.numpy()[rows], wide


def test_norms_are_those_of_the_matrices():
    said = _said()
    who, label, wide = _matrices(said)
    # As the authors do, every answer is turned so that it is a win or a tie; ties go from the smaller index.
    turn = np.where(label == 0, np.where(said.left < said.right, 1, -1).repeat(said.weight.long().numpy()), label)
    wide[:, :-1] *= turn[:, None]
    largest = max(np.linalg.norm(wide[who == user].T @ wide[who == user], 2) for user in range(3))
    table = TieTable(said)
    assert table.personal_norm() == pytest.approx(largest, rel=1e-3)
    assert table.common_norm() == pytest.approx(np.linalg.norm(wide[:, :-1].T @ wide[:, :-1], 2), rel=1e-9)


def test_the_norm_of_many_items_by_powers_is_that_of_the_matrix(monkeypatch):
    table = TieTable(_said())
    wanted = table.common_norm()
    monkeypatch.setattr("equipoise.crowd.partial_ranking.tie_table._DENSE", 1)
    assert table.common_norm() == pytest.approx(wanted, rel=1e-3)


@pytest.mark.parametrize("scale", ["mean", "per_user"])
@pytest.mark.parametrize("link", ["logistic", "normal"])
def test_a_step_is_its_formula(scale, link):
    said = _said()
    state = _state(said)
    nu, kappa, step, least = 0.7, 5.0, 0.01, 0.05
    leaves = [state.common.clone().requires_grad_(), state.personal.clone().requires_grad_()]
    users = said.num_annotators if scale == "per_user" else 1
    slopes = torch.autograd.grad(_loss(said, *leaves, link) * users, leaves)
    steps = default_steps(TieTable(said, link), nu, kappa, scale, step)
    assert steps.time == step
    common = state.common - steps.common * slopes[0]
    common[-1] = max(float(common[-1]), least)
    personal = state.personal - kappa * step * (slopes[1] + (state.personal - state.gamma) / nu)
    personal[:, -1] = torch.maximum(personal[:, -1], least - common[-1])
    dual = state.dual - step * (state.gamma - personal) / nu
    rows = []
    for row in dual:
        length = float(row.norm())
        rows.append(kappa * max(0.0, 1 - 1 / length) * row)
    kept = state.clone()
    found = split_lbi_step(state, said, nu=nu, kappa=kappa, step=step, threshold_min=least, link=link, scale=scale)
    for mine, wanted in zip(found, (common, personal, dual, torch.stack(rows)), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-12)
    assert all(one.equal(other) for one, other in zip(state, kept, strict=True))
    if scale == "mean":
        assert steps.common == pytest.approx(kappa * step)


def test_a_user_who_said_nothing_stays_and_an_unseen_item_too():
    said = _said()
    state = SplitState.start(torch.tensor([0.5, 0.2, -0.1, -0.6, 0.3, 1.0], **DOUBLE), said.num_annotators)
    for _ in range(200):
        state = split_lbi_step(state, said, scale="per_user")
    assert (state.personal[-1, :-1] == 0).all()
    assert (state.gamma[-1] == 0).all()
    assert state.common[-2] == 0.3


def test_thresholds_never_fall_below_their_least():
    # No ties: the likelihood drives every threshold down.
    said = Comparisons.from_columns([0, 0, 1, 1], [0, 1, 0, 2], [1, 2, 1, 1], [1, 1, -1, 1])
    state = SplitState.start(torch.tensor([0.0, 0.0, 0.0, 0.1], **DOUBLE), 2)
    for _ in range(60):
        state = split_lbi_step(state, said, scale="per_user", threshold_min=0.02)
        assert ((state.personal[:, -1] + state.common[-1]) >= 0.02 - 1e-12).all()
        assert state.common[-1] >= 0.02
    assert state.common[-1] == 0.02


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("scale", ["mean", "per_user"])
def test_default_steps_descend(link, scale):
    said = simulate_partial_rankings(5, 6, comparisons_per_user=(40, 50), spread=1.0, seed=1).comparisons
    table = TieTable(said, link)
    state = SplitState.start(torch.tensor([0.0] * 6 + [0.5], **DOUBLE), 5)
    steps = default_steps(table, 1.0, 10.0, scale)
    losses = []
    for _ in range(60):
        losses.append(steps.scale * table.loss(state.personal + state.common))
        losses[-1] += float((state.personal - state.gamma).square().sum()) / 2
        advance(state, table, steps, 1.0, 10.0, 1e-3)
    assert all(later <= before + 1e-9 for before, later in itertools.pairwise(losses))


def test_a_threshold_at_most_doubles_where_that_is_asked():
    said = Comparisons.from_columns([0] * 20, [0] * 20, [1] * 20, [0] * 20)
    state = SplitState.start(torch.tensor([0.0, 0.0, 0.001], **DOUBLE), 1)
    free, held = state.clone(), state.clone()
    table = TieTable(said)
    steps = default_steps(table, 1.0, 10.0, "per_user")
    advance(free, table, steps, 1.0, 10.0, 1e-3)
    advance(held, table, steps, 1.0, 10.0, 1e-3, most_change=2.0)
    assert float(free.common[-1] + free.personal[0, -1]) > 1
    assert float(held.common[-1] + held.personal[0, -1]) == pytest.approx(0.002)


def test_shrinking_is_by_group():
    z = torch.tensor([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0], [1.0, 0.0]], **DOUBLE)
    wanted = torch.tensor([[0.0, 0.0], [6.0 * 0.8, 8.0 * 0.8], [0.0, 0.0], [0.0, 0.0]], **DOUBLE)
    torch.testing.assert_close(group_shrink(z, 2.0), wanted)


@pytest.mark.usefixtures("plain_inputs")
def test_a_state_of_another_shape_or_with_nan_is_refused():
    said = _said()
    state = _state(said)
    with pytest.raises(ValueError, match=r"state\.dual must have shape \(4, 6\)"):
        split_lbi_step(state._replace(dual=torch.zeros(2, 6)), said)
    bad = state.personal.clone()
    bad[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"state\.personal holds 1 NaN"):
        split_lbi_step(state._replace(personal=bad), said)
