"""Risks in a tabular world: enumeration of trajectories, the one-step override, the identity, horizons, ties."""

import pytest
import torch

from equipoise.language import kappa_tabular, split_bridge_garden


def layered(seed, layers=(1, 3, 4, 3), actions=4, shuffle=True):
    """A random graph whose edges go to later layers or the end."""
    generator = torch.Generator().manual_seed(seed)
    states = sum(layers)
    of = torch.repeat_interleave(torch.arange(len(layers)), torch.tensor(layers))
    following = torch.full((states, actions), -1)
    for s in range(states):
        later = (of > of[s]).nonzero()[:, 0].tolist()
        for a in range(actions):
            pick = int(torch.randint(len(later) + 1, (), generator=generator))
            following[s, a] = later[pick] if pick < len(later) else -1
    draw = lambda: torch.rand(states, actions, generator=generator, dtype=torch.float64).square()  # noqa: E731
    teacher, student = draw(), draw()
    teacher[:, 0] *= torch.rand(states, generator=generator) < 0.7  # tokens the teacher never writes
    loss = torch.rand(states, generator=generator, dtype=torch.float64)
    order = torch.randperm(states, generator=generator) if shuffle else torch.arange(states)
    back = torch.cat([order.argsort(), torch.tensor([-1])])
    tables = [(each / each.sum(1, keepdim=True))[order] for each in (teacher, student)]
    return tables[0], back[following[order]], loss[order], tables[1], int(back[0])


def expected_loss(policy, following, loss, state, forced=None):
    """By enumeration of all trajectories from a state; `forced` = (state, token) is taken there for sure."""
    total = float(loss[state])
    for a in range(following.shape[1]):
        weight = float(policy[state, a])
        if forced is not None and forced[0] == state:
            weight = float(a == forced[1])
        if weight and following[state, a] >= 0:
            total += weight * expected_loss(policy, following, loss, int(following[state, a]), forced)
    return total


@pytest.mark.parametrize("seed", range(4))
def test_losses_to_go_and_errors_are_those_of_all_trajectories(seed):
    teacher, following, loss, student, start = layered(seed)
    found = kappa_tabular(teacher, following, loss, start_state=start, student_probs=student)
    for s in range(len(loss)):
        assert float(found.loss_to_go[s]) == pytest.approx(expected_loss(teacher, following, loss, s), abs=1e-12)
    assert float(found.teacher_forced_error) == pytest.approx(expected_loss(teacher, following, loss, start), abs=1e-12)
    assert float(found.inference_error) == pytest.approx(expected_loss(student, following, loss, start), abs=1e-12)
    torch.testing.assert_close(found.state_kappa, found.kappa.sum(1))


@pytest.mark.parametrize("seed", range(3))
def test_risk_is_what_one_forced_token_adds_per_visit(seed):
    teacher, following, loss, _, start = layered(seed)
    found = kappa_tabular(teacher, following, loss, start_state=start)
    usual = expected_loss(teacher, following, loss, start)
    for s in range(len(loss)):
        visits = float(found.visitation_teacher[s])
        for a in range(following.shape[1]):
            if visits > 0:
                added = expected_loss(teacher, following, loss, start, (s, a)) - usual
                assert float(found.kappa[s, a]) == pytest.approx(added / visits, abs=1e-9)
    assert found.exposure_bias is found.drift is found.visitation_student is None


@pytest.mark.parametrize("seed", range(8))
def test_exposure_bias_is_the_drift_to_risky_tokens(seed):
    teacher, following, loss, student, start = layered(seed, layers=(1, 5, 9, 9, 6, 2), actions=6)
    found = kappa_tabular(teacher, following, loss, start_state=start, student_probs=student)
    assert abs(float(found.drift.sum() - found.exposure_bias)) < 1e-10
    again = (found.visitation_student[:, None] * (student - teacher) * found.kappa).sum()
    assert abs(float(again - (found.inference_error - found.teacher_forced_error))) < 1e-10
    same = kappa_tabular(teacher, following, loss, start_state=start, student_probs=teacher)
    assert same.exposure_bias == 0


def test_the_order_of_states_does_not_matter():
    plain, shuffled = layered(5, shuffle=False), layered(5)
    found = [kappa_tabular(t, f, x, start_state=s, student_probs=q) for t, f, x, q, s in (plain, shuffled)]
    torch.testing.assert_close(found[0].exposure_bias, found[1].exposure_bias)
    torch.testing.assert_close(found[0].kappa.flatten().sort().values, found[1].kappa.flatten().sort().values)


def test_a_horizon_unrolls_a_cycle():
    generator = torch.Generator().manual_seed(0)
    states, actions, horizon = 4, 3, 5
    draw = lambda *shape: torch.rand(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    teacher, student, loss = draw(states, actions), draw(states, actions), draw(states)
    teacher, student = teacher / teacher.sum(1, keepdim=True), student / student.sum(1, keepdim=True)
    following = torch.randint(-1, states, (states, actions), generator=generator)
    following[0, 0] = 0
    with pytest.raises(ValueError, match="pass horizon"):
        kappa_tabular(teacher, following, loss)
    found = kappa_tabular(teacher, following, loss, student_probs=student, horizon=horizon)
    # The same world written out: a copy of every state for every time.
    copies = torch.cat([torch.where(following >= 0, following + states * (t + 1), -1) for t in range(horizon)])
    copies[copies >= states * horizon] = -1
    unrolled = kappa_tabular(
        teacher.repeat(horizon, 1), copies, loss.repeat(horizon), student_probs=student.repeat(horizon, 1)
    )
    for one, other in zip(found, unrolled, strict=True):
        torch.testing.assert_close(one.flatten(), other.flatten())
    assert found.kappa.shape == (horizon, states, actions)
    assert abs(float(found.drift.sum() - found.exposure_bias)) < 1e-10


def test_a_horizon_past_the_end_changes_nothing():
    teacher, following, loss, student, start = layered(2)
    plain = kappa_tabular(teacher, following, loss, start_state=start, student_probs=student)
    long = kappa_tabular(teacher, following, loss, start_state=start, student_probs=student, horizon=9)
    torch.testing.assert_close(long.q[0], plain.q)
    torch.testing.assert_close(long.visitation_student.sum(0), plain.visitation_student)
    torch.testing.assert_close(long.exposure_bias, plain.exposure_bias)


def test_a_chain_of_many_states_needs_no_recursion():
    states = 3000
    following = torch.stack([torch.arange(1, states + 1), torch.arange(1, states + 1)], 1)
    following[-1] = -1
    teacher = torch.full((states, 2), 0.5)
    found = kappa_tabular(teacher, following, torch.ones(states))
    assert found.loss_to_go[0] == states
    assert not found.kappa.any()
    assert found.visitation_teacher.eq(1).all()


def test_tokens_left_out_do_not_count_in_the_sum():
    teacher, following, loss, _, start = layered(1)
    found = kappa_tabular(teacher, following, loss, start_state=start, left_out=[0, 2])
    torch.testing.assert_close(found.state_kappa, found.kappa[:, [1, 3]].sum(1))


def test_single_precision_is_computed_in_double():
    teacher, following, loss, student, start = layered(3)
    exact = kappa_tabular(teacher, following, loss, start_state=start, student_probs=student)
    found = kappa_tabular(teacher.float(), following, loss.float(), start_state=start, student_probs=student.float())
    assert found.kappa.dtype is torch.float64
    torch.testing.assert_close(found.kappa, exact.kappa, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"teacher_probs": torch.tensor([[0.5, 0.4], [1.0, 0.0]])},
            "teacher_probs must sum .* state 0 sums to 0.9",
        ),
        ({"student_probs": torch.tensor([[0.5, 0.5], [2.0, 0.0]])}, "student_probs must sum .* state 1 sums to 2"),
        ({"teacher_probs": torch.tensor([[1.5, -0.5], [1.0, 0.0]])}, "teacher_probs must be at least 0"),
        ({"next_state": torch.tensor([[1, 2], [-1, -1]])}, "next_state holds 2, wanted states from 0 to 1, or -1"),
        ({"next_state": torch.tensor([[1, -2], [-1, -1]])}, "next_state must be at least -1"),
        ({"next_state": torch.tensor([[1, 0], [-1, -1]])}, "comes back to a state"),
        ({"next_state": torch.tensor([[1, 1], [0, -1]])}, "comes back to a state"),
        ({"state_loss": torch.tensor([torch.nan, 0.0])}, "state_loss holds 1 NaN"),
        ({"state_loss": torch.zeros(3)}, "state_loss must have shape"),
        ({"start_state": 2}, "start_state=2 is none of the 2 states"),
        ({"left_out": [2]}, r"left_out=\(2,\) must be tokens from 0 to 1"),
        ({"horizon": 0}, "horizon=0 must be a whole number at least 1"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(changes, words):
    good = {
        "teacher_probs": torch.tensor([[0.5, 0.5], [1.0, 0.0]]),
        "next_state": torch.tensor([[1, -1], [-1, -1]]),
        "state_loss": torch.tensor([0.1, 0.2]),
    }
    kappa_tabular(**good)
    with pytest.raises(ValueError, match=words):
        kappa_tabular(**{**good, **changes})


def marks(values, fraction=0.2):
    found = split_bridge_garden(torch.tensor(values, dtype=torch.float64), fraction)
    assert torch.stack(found).sum(0).eq(1).all()
    return "".join("bgmt"[int(torch.stack(found)[:, k].nonzero())] for k in range(len(values)))


def test_the_riskiest_are_bridges_and_the_safest_gardens():
    assert marks([5.0, 1.0, 2.0, 3.0, 4.0, 0.0, 6.0, 7.0, 8.0, 9.0]) == "mgmmmgmmbb"
    assert marks([1.0, 0.0]) == "bg"
    assert marks([3.0, 1.0, 2.0, 0.0, 5.0], 0.45) == "bgmgb"


def test_equal_risks_at_a_cut_are_ties():
    assert marks([2.0, 1.0, 1.0, 1.0, 0.0], 0.4) == "btttg"
    assert marks([1.0, 1.0, 0.5, 0.0, 0.0], 0.4) == "bbmgg"
    assert marks([1.0, 1.0, 1.0, 1.0]) == "tttt"
    assert marks([1.0, 1.0 + 1e-13, 0.5, 0.2, 0.0]) == "ttmmg"


@pytest.mark.usefixtures("plain_inputs")
def test_a_split_needs_a_fraction_below_one_half_and_two_states():
    for fraction in (0, 0.5, 1.2):
        with pytest.raises(ValueError, match=r"fraction=.* must lie in \(0, 0.5\)"):
            split_bridge_garden(torch.arange(4.0), fraction)
    with pytest.raises(ValueError, match="at least 2"):
        split_bridge_garden(torch.ones(1))
