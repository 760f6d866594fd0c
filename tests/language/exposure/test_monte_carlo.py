"""Risks by rollouts against exact ones, the report of a text, and the scripted teacher."""

import pytest
import torch

from equipoise.language import (
    ScriptedOracle,
    TabularLanguageModel,
    estimate_kappa,
    kappa_tabular,
    split_bridge_garden,
    token_risks,
)

A = 5


def world(seed, length=5, width=3, sharp=1.0):
    """Tables of teacher and student of a layered world, and the KL in each state."""
    generator = torch.Generator().manual_seed(seed)
    states = length * width
    logits = [sharp * 2 * torch.randn(states, A, generator=generator, dtype=torch.float64) for _ in range(2)]
    teacher, student = (each.softmax(1) for each in logits)
    following = torch.randint(width, (states, A), generator=generator)
    following += width * (torch.arange(states) // width + 1)[:, None]
    following[following >= states] = -1
    return teacher, student, following, (teacher * (teacher / student).log()).sum(1)


def models(teacher, student, following):
    return TabularLanguageModel(teacher, following), TabularLanguageModel(student, following)


@pytest.mark.parametrize("actions", [None, [4, 1], [2]])
@pytest.mark.parametrize("antithetic", [False, True])
def test_estimates_of_a_tabular_world_agree_with_its_exact_risks(actions, antithetic):
    teacher, student, following, loss = world(0)
    exact = kappa_tabular(teacher, following, loss, student_probs=student)
    models_ = models(teacher, student, following)
    text = torch.tensor([0, 3, 1, 2, 0, 0])
    for position in (1, 2, 3):
        state = int(models_[0].states(text[None])[0, position - 1])
        left = 5 - position
        found = estimate_kappa(
            *models_, text, position, actions, n_rollouts=1500, horizon=left, antithetic=antithetic, batch_size=10**5
        )
        chosen = found.actions
        assert chosen.tolist() == (list(range(A)) if actions is None else actions)
        wanted = exact.kappa[state, chosen]
        assert ((found.kappa - wanted).abs() < 4.5 * found.standard_error + 1e-9).all()
        assert (found.standard_error < 0.1).all()
        assert abs(found.state_kappa - float(wanted.sum())) < 4.5 * found.state_kappa_error + 1e-9
        drift = ((student - teacher)[state, chosen] * wanted).sum()
        assert abs(found.drift - float(drift)) < 4.5 * found.drift_error + 1e-9
        torch.testing.assert_close(found.teacher_probs, teacher[state, chosen])
        torch.testing.assert_close(found.student_probs, student[state, chosen])


def test_a_sure_teacher_leaves_nothing_to_chance():
    teacher, student, following, _ = world(1)
    teacher = torch.nn.functional.one_hot(teacher.argmax(1), A).double()
    loss = -(teacher * student.log()).sum(1)
    exact = kappa_tabular(teacher, following, loss)
    models_ = models(teacher, student, following)
    text = torch.tensor([0, 3, 1])
    state = int(models_[0].states(text[None])[0, 1])
    found = estimate_kappa(*models_, text, 2, horizon=3, n_rollouts=2)
    torch.testing.assert_close(found.kappa, exact.kappa[state], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.q, exact.q[state], rtol=1e-10, atol=1e-10)
    assert found.standard_error.max() < 1e-12


def test_the_horizon_cuts_the_loss_to_come():
    teacher, student, following, loss = world(2)
    found = estimate_kappa(*models(teacher, student, following), torch.tensor([0]), 1, horizon=1, n_rollouts=1)
    torch.testing.assert_close(found.q, loss[following[0]])
    exact = kappa_tabular(teacher, following, loss, horizon=2)
    torch.testing.assert_close(found.kappa, exact.kappa[0, 0])
    assert found.standard_error.isnan().all()


def test_nothing_comes_after_the_end_token():
    teacher, student, following, loss = world(3)
    following[:, 2] = -1
    models_ = [TabularLanguageModel(each, following, end_token=2) for each in (teacher, student)]
    exact = kappa_tabular(teacher, following, loss)
    found = estimate_kappa(*models_, torch.tensor([0]), 1, horizon=4, n_rollouts=2000, eos_token_id=2, batch_size=9999)
    assert found.q[2] == 0
    assert ((found.kappa - exact.kappa[0]).abs() < 4.5 * found.standard_error + 1e-9).all()


def test_common_random_numbers_beat_independent_ones():
    teacher, student, following, _ = world(4, sharp=0.7)
    models_ = models(teacher, student, following)
    text, n = torch.tensor([0]), 400
    found = estimate_kappa(*models_, text, 1, [0, 1], horizon=4, n_rollouts=n, batch_size=9999)
    apart = [estimate_kappa(*models_, text, 1, [0, 1], horizon=4, n_rollouts=1, seed=k) for k in range(100)]
    q = torch.stack([each.q for each in apart])
    qbar = torch.tensor([each.qbar for each in apart], dtype=torch.float64)
    independent = ((q.var(0) + qbar.var()) / n).sqrt()
    assert (found.standard_error < 0.95 * independent).all()


def test_batches_and_seeds():
    teacher, student, following, _ = world(5)
    models_ = models(teacher, student, following)
    text = torch.tensor([0, 1])
    whole = estimate_kappa(*models_, text, 2, n_rollouts=4, horizon=3)
    parts = estimate_kappa(*models_, text, 2, n_rollouts=4, horizon=3, batch_size=3)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(whole.kappa, estimate_kappa(*models_, text, 2, n_rollouts=4, horizon=3, seed=1).kappa)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_with_a_sentence():
    model = TabularLanguageModel(*world(0)[::2])
    good = {"teacher": model, "student": model, "input_ids": torch.tensor([0, 1]), "position": 1}
    for changes, words in (
        ({"position": 3}, "position=3 is beyond the text, which has 2 tokens"),
        ({"position": 0}, "position=0"),
        ({"actions": [1, 1]}, "must be distinct tokens"),
        ({"actions": []}, "at least one"),
        ({"actions": [5]}, r"actions=\(5,\) must be tokens from 0 to 4"),
        ({"antithetic": True, "n_rollouts": 3}, "antithetic rollouts come in pairs, got n_rollouts=3"),
        ({"input_ids": torch.zeros(2)}, "input_ids must hold integers"),
    ):
        with pytest.raises(ValueError, match=words):
            estimate_kappa(**{**good, **changes})
    with pytest.raises(ValueError, match="less than 2 are left after start=1"):
        token_risks(model, model, torch.tensor([0, 1]))


def test_a_tabular_model_writes_what_its_tables_say():
    teacher, _, following, _ = world(6)
    model = TabularLanguageModel(teacher, following, end_token=3)
    text = model.sample(4000, 7, seed=1)
    assert text[:, 0].eq(0).all()
    assert text[:, 6:].eq(3).all()
    states = model.states(text)
    assert states[:, 5:].eq(-1).all()
    exact = kappa_tabular(teacher, following, torch.ones(len(teacher)))
    visits = torch.bincount(states[:, :5].flatten(), minlength=len(teacher)) / 4000
    torch.testing.assert_close(visits.double(), exact.visitation_teacher, rtol=0, atol=0.04)
    for t in range(5):
        p = model(text)[:, t].softmax(-1)
        torch.testing.assert_close(p, teacher[states[:, t]])
    assert model(text)[:, 5:].argmax(-1).eq(3).all()


@pytest.mark.parametrize(("script", "length"), [("code", 47), ("math", 43), ("dialogue", 35)])
def test_scripts_have_bridges_that_may_break_and_gardens_that_cannot(script, length):
    oracle = ScriptedOracle(script, seed=3)
    assert oracle.length == length
    torch.testing.assert_close(oracle.probs.sum(1), torch.ones(len(oracle.probs), dtype=torch.float64))
    bridge, garden, violation = (oracle.role(name) for name in ("bridge", "garden", "violation"))
    support = (oracle.probs > 0).sum(1)
    assert support[bridge].eq(4).all()
    assert support[garden].eq(8).all()
    assert support[oracle.role("fixed")].eq(1).all()
    assert not oracle.probs[:, 0].any()
    main = oracle.probs[bridge].max(1).values.view(-1, 8)[:, 0]
    wanted = torch.tensor([max(0.94, 0.98 - 0.01 * k) for k in range(len(main))], dtype=torch.float64)
    torch.testing.assert_close(main, wanted)
    # Styles permute the tokens of a garden.
    for position in oracle.probs[garden].view(-1, 8, 64):
        assert (position.sort(1).values == position[0].sort().values).all()
    after = oracle.next_state[violation]
    assert oracle.role("violation")[after[after >= 0]].all()
    leads = violation[oracle.next_state.clamp_min(0)] & (oracle.next_state >= 0)
    assert not (leads & (oracle.probs > 0))[~violation].any()
    assert not leads[garden | oracle.role("fixed")].any()
    assert leads[bridge].any(1).float().mean() > 0.8
    texts = oracle.sample(50, length)
    assert not violation[oracle.states(texts)[:, :-1]].any()
    assert oracle.states(texts)[:, -1].eq(-1).all()


def test_exact_risks_find_the_bridges_of_a_script():
    oracle = ScriptedOracle("math")
    clean = ~oracle.role("violation")
    loss = torch.where(clean, 0.1, 2.0).double()
    risk = kappa_tabular(oracle.probs, oracle.next_state, loss).state_kappa
    split = split_bridge_garden(risk[clean], 0.2)
    assert oracle.role("bridge")[clean][split.bridge].all()


def test_a_careless_student_leaves_the_script_and_its_bias_says_so():
    oracle = ScriptedOracle("math")

    class Careless(torch.nn.Module):
        """The teacher with a twentieth of its probability on all tokens, and none of its knowledge of violations."""

        def forward(self, ids):
            states = oracle.states(ids)
            p = 0.95 * oracle(ids).softmax(-1) + 0.05 / 64
            return torch.where(oracle.role("violation")[states.clamp_min(0)][..., None], 1 / 64, p).log()

    student = Careless().train()
    report = oracle.evaluate(student, n_rollouts=60)
    assert student.training
    assert report.clean < 0.9
    assert report.exposure_bias > 0.1
    assert abs(report.bridge_exposure_bias) < 0.02
    assert report.student_rollout - report.teacher_forced == pytest.approx(report.exposure_bias)


@pytest.mark.parametrize("alternatives", [0, 3])
def test_a_text_token_by_token(alternatives):
    teacher, student, following, loss = world(7)
    models_ = models(teacher, student, following)
    text = models_[0].sample(1, 5)[0]
    found = token_risks(*models_, text, alternatives=alternatives, n_rollouts=300, horizon=4, fraction=0.3)
    states = models_[0].states(text[None])[0, :-1]
    assert found.position.tolist() == [1, 2, 3, 4, 5]
    assert torch.equal(found.token, text[1:])
    torch.testing.assert_close(found.divergence, loss[states])
    torch.testing.assert_close(found.teacher_probability, teacher[states, text[1:]])
    torch.testing.assert_close(found.student_probability, student[states, text[1:]])
    torch.testing.assert_close(found.teacher_certainty, teacher[states].max(1).values)
    torch.testing.assert_close(found.teacher_entropy, -(teacher * teacher.log())[states].sum(1))
    assert sorted(found.mark) == ["bridge", "garden", "middle", "middle", "middle"]
    if alternatives:
        top = student[states].topk(3).indices
        exact = kappa_tabular(teacher, following, loss).kappa[states]
        wanted = exact.gather(1, top).sum(1)
        assert ((found.risk - wanted).abs() < 4.5 * found.risk_error + 1e-9)[:4].all()
        drift = ((student - teacher)[states] * exact).gather(1, top).sum(1)
        torch.testing.assert_close(found.drift[:4], drift[:4], rtol=0, atol=0.2)
    else:
        assert found.risk_error.isnan().all()
        assert found.drift.isnan().all()
        assert found.mark[int(found.teacher_certainty.argmax())] == "bridge"
    part = token_risks(*models_, text, start=3)
    assert torch.equal(part.divergence, found.divergence[2:])
