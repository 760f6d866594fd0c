import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from equipoise.core.solvers.perturbation import input_gradient
from equipoise.core.solvers.saddle import descent_ascent
from equipoise.ranking import (
    MinMaxAUCLoss,
    PGDAttack,
    RobustAUROC,
    adversarial_auc_step,
    auroc,
    minmax_auc_loss,
    pairwise_auc_loss,
    robust_auroc,
)
from equipoise.ranking.robust.adversarial_auc import first_order_stationarity, loss_agnostic_terms
from equipoise.ranking.robust.minmax_auc import minmax_auc_terms, minmax_inner_solution, project_alpha
from equipoise.ranking.robust.robust_auroc import attacked_scores


def _scores(seed, n=30):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, generator=generator, dtype=torch.float64)
    return scores, (torch.randperm(n, generator=generator) < 1 + seed % (n - 1)).long()


@given(seed=st.integers(0, 2000))
def test_the_saddle_point_holds_the_risk_of_all_pairs_in_both_forms(seed):
    scores, target = _scores(seed)
    found = minmax_inner_solution(scores, target)
    risk = pairwise_auc_loss(scores, target, surrogate="square")
    torch.testing.assert_close(found.pairwise_square_risk, risk, rtol=1e-10, atol=1e-12)
    prior = target.double().mean().item()
    point = (found.a, found.b, found.alpha)
    torch.testing.assert_close(minmax_auc_loss(scores, target, *point), risk - 1, rtol=1e-10, atol=1e-12)
    in_prior = minmax_auc_loss(scores, target, *point, prior=prior)
    torch.testing.assert_close(in_prior, found.saddle_value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(in_prior, prior * (1 - prior) * (risk - 1), rtol=1e-10, atol=1e-12)
    for shift in (-0.1, 0.1):
        assert minmax_auc_loss(scores, target, found.a + shift, found.b, found.alpha) > risk - 1
        assert minmax_auc_loss(scores, target, found.a, found.b + shift, found.alpha) > risk - 1
        assert minmax_auc_loss(scores, target, found.a, found.b, found.alpha + shift) < risk - 1


@given(seed=st.integers(0, 2000))
def test_within_its_bounds_alpha_makes_terms_fall_for_positives_and_rise_for_negatives(seed):
    scores, target = _scores(seed)
    a, b, alpha = torch.rand(3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).tolist()
    alpha = float(project_alpha(*(torch.tensor(v, dtype=torch.float64) for v in (a, b, 4 * alpha - 2))))
    assert -1 <= max(-a, b - 1) <= alpha <= 1
    scores.requires_grad_()
    for prior in (None, 0.3):
        (slope,) = torch.autograd.grad(minmax_auc_terms(scores, target, a, b, alpha, prior=prior).sum(), scores)
        assert (slope[target == 1] <= 1e-12).all()
        assert (slope[target == 0] >= -1e-12).all()


def test_gradients_of_the_loss_are_those_of_finite_differences():
    scores, target = _scores(7)
    variables = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 0.6, -0.2)]
    for prior in (None, 0.25):
        assert torch.autograd.gradcheck(
            lambda s, *v, p=prior: minmax_auc_loss(s, target, *v, prior=p), (scores.requires_grad_(), *variables)
        )


def test_the_closed_form_module_has_the_gradient_of_all_pairs():
    logits = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = (torch.arange(20) < 5).long()
    loss = MinMaxAUCLoss(inner="closed_form").double()
    wanted = pairwise_auc_loss(logits.sigmoid(), target, surrogate="square")
    found = loss(logits, target)
    torch.testing.assert_close(found, wanted - 1)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits, retain_graph=True)[0] for v in (found, wanted)))
    assert not any(p.requires_grad for p in loss.parameters())


def _linear(seed=0):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(4, dtype=torch.float64, generator=generator)
    x = torch.rand(12, 4, dtype=torch.float64, generator=generator)
    return w, (lambda z: torch.sigmoid(z @ w)), x, (torch.arange(12) < 4).long()


@pytest.mark.parametrize("prior", [0.2, 0.6, 0.95])
def test_the_closed_form_is_the_saddle_point_within_bounds_whatever_share_the_batch_has(prior):
    scores, target = _scores(3)
    loss = MinMaxAUCLoss(form="prior", prior=prior, inner="closed_form", from_logits=False).double()
    value = loss(scores, target)
    a, b, alpha = loss.a.item(), loss.b.item(), loss.alpha.item()
    grid = torch.linspace(max(-a, b - 1), 1, 201, dtype=torch.float64)
    values = torch.stack([minmax_auc_loss(scores, target, a, b, each, prior=prior) for each in grid])
    assert value >= values.max() - 1e-12
    assert (grid[values.argmax()] - alpha).abs() <= grid[1] - grid[0]
    for shift in (-0.05, 0.05):
        assert minmax_auc_loss(scores, target, a + shift, b, alpha, prior=prior) > value
        assert minmax_auc_loss(scores, target, a, b + shift, alpha, prior=prior) > value


def test_on_a_linear_model_the_attack_reaches_the_corner_and_is_stationary_there():
    w, model, x, target = _linear()
    attack = PGDAttack(eps=0.1, step=0.03, steps=8, bounds=(-9.0, 9.0), random_start=False)
    delta = attack(model, x, target, loss_agnostic_terms)
    wanted = torch.where(target == 1, -1.0, 1.0)[:, None] * 0.1 * w.sign()
    torch.testing.assert_close(delta, wanted)
    _, gradient = input_gradient(model, x, delta, lambda s: loss_agnostic_terms(s, target))
    assert first_order_stationarity(gradient, delta, 0.1).abs().max() < 1e-15
    assert (first_order_stationarity(gradient, delta / 2, 0.1) > 1e-4).all()
    boxed = PGDAttack(eps=0.1, step=0.03, steps=8)(model, x, target, loss_agnostic_terms)
    assert (x + boxed).min() >= 0
    assert (x + boxed).max() <= 1
    assert (boxed - (x + wanted).clamp(0, 1) + x).abs().max() < 1e-8


def test_in_l2_the_attack_goes_along_the_weights():
    w, model, x, target = _linear(1)
    attack = PGDAttack(eps=0.2, step=0.08, steps=10, norm="l2", bounds=(-9.0, 9.0))
    delta = attack(model, x, target, loss_agnostic_terms, torch.Generator().manual_seed(0))
    wanted = torch.where(target == 1, -1.0, 1.0)[:, None] * 0.2 * w / w.norm()
    torch.testing.assert_close(delta, wanted, rtol=0, atol=2e-2)
    assert delta.norm(dim=1).max() <= 0.2 + 1e-9
    _, gradient = input_gradient(model, x, delta, lambda s: loss_agnostic_terms(s, target))
    assert first_order_stationarity(gradient, delta, 0.2, "l2").min() > -1e-12


def _network(seed=0):
    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(2 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return network


def test_the_best_change_of_each_sample_is_kept_and_restarts_only_help():
    network = _network()
    _, _, x, target = _linear(2)

    def value(delta):
        with torch.no_grad():
            return loss_agnostic_terms(network(x + delta).squeeze(1), target)

    options = {"eps": 0.3, "step": 0.25, "steps": 6}
    once = value(PGDAttack(**options)(network, x, target, loss_agnostic_terms, torch.Generator().manual_seed(1)))
    more = value(
        PGDAttack(**options, restarts=8)(network, x, target, loss_agnostic_terms, torch.Generator().manual_seed(1))
    )
    last = value(
        PGDAttack(**options, keep="last")(network, x, target, loss_agnostic_terms, torch.Generator().manual_seed(1))
    )
    clean = value(torch.zeros_like(x))
    assert (once >= clean).all()
    assert (once >= last - 1e-12).all()
    assert (more >= once - 1e-12).all()
    assert (more > once + 1e-6).any()
    assert (once > last + 1e-6).any()


def test_samples_that_have_settled_leave_the_attack():
    seen = []
    w, _, x, target = _linear()

    def model(z):
        seen.append(len(z))
        return torch.sigmoid(z @ w)

    # A third of the samples starts in its corner already: the box allows no other change.
    x[4:8] = torch.where(w > 0, 1.0, 0.0)
    target = (torch.arange(12) < 4).long()
    plain = PGDAttack(eps=0.1, step=0.05, steps=6, random_start=False)
    stopped = PGDAttack(eps=0.1, step=0.05, steps=6, random_start=False, fosc_threshold=1e-12)
    wanted = plain(model, x, target, loss_agnostic_terms)
    full = len(seen)
    del seen[:]
    found = stopped(model, x, target, loss_agnostic_terms)
    torch.testing.assert_close(found, wanted)
    assert sum(seen) < 12 * full
    del seen[:]
    PGDAttack(eps=0.1, step=0.05, steps=6, random_start=False, fosc_threshold=1e9)(
        model, x, target, loss_agnostic_terms
    )
    assert len(seen) <= 3


def test_a_concave_penalty_keeps_changes_small():
    _, model, x, target = _linear()
    sizes = [
        PGDAttack(eps=0.3, step=0.02, steps=40, norm="l2", bounds=(-9.0, 9.0), random_start=False, concavity=kappa)(
            model, x, target, loss_agnostic_terms
        )
        .norm(dim=1)
        .mean()
        for kappa in (0.0, 5.0, 100.0)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_the_worst_case_of_the_loss_is_the_loss_agnostic_one():
    network, (_, _, x, target) = _network(), _linear(4)
    loss = MinMaxAUCLoss().double()
    attack = PGDAttack(eps=0.05, step=0.01, steps=20, random_start=False)
    ours = attack(network, x, target, loss.terms)
    agnostic = attack(network, x, target, loss_agnostic_terms)
    torch.testing.assert_close(ours, agnostic)


def test_training_on_attacked_inputs_makes_the_ranking_hold():
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(400) < 40
    # One strong feature with little room, one weak with much.
    x = torch.stack(
        [
            0.5 + 0.02 * target + 0.01 * torch.randn(400, generator=generator),
            0.4 + 0.25 * target + 0.15 * torch.randn(400, generator=generator),
        ],
        1,
    ).clamp(0, 1)
    attack = PGDAttack(eps=0.05, step=0.02, steps=5)
    found, fragile = {}, {}
    for name in ("plain", "adversarial"):
        model = nn.Linear(2, 1)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[4.0, 4.0]]))
            model.bias.fill_(-4.0)
        loss = MinMaxAUCLoss()
        optimizer = descent_ascent(torch.optim.Adam, model, loss, lr=0.1, dual_lr=0.02)
        for _ in range(150):
            eps = attack if name == "adversarial" else PGDAttack(eps=0.0)
            adversarial_auc_step(model, loss, eps, optimizer, x, target, generator=torch.Generator().manual_seed(1))
        found[name] = robust_auroc(model, x, target, [0.05], attack, generator=torch.Generator().manual_seed(2))
        fragile[name] = abs(model.weight[0, 0].item())
    assert found["adversarial"][0.05] > found["plain"][0.05] + 0.02
    assert fragile["plain"] > 2
    assert fragile["adversarial"] < 0.3


def test_a_step_clears_what_was_there_and_leaves_the_attack_out_of_the_gradients():
    network, (_, _, x, target) = _network(), _linear(3)
    loss, attack = MinMaxAUCLoss().double(), PGDAttack(eps=0.1, step=0.05, steps=3, random_start=False)
    optimizer = descent_ascent(torch.optim.SGD, network, loss, lr=0.1)
    twin, twin_loss = copy.deepcopy(network), copy.deepcopy(loss)
    for p in (*network.parameters(), *loss.parameters()):
        p.grad = torch.full_like(p, 1e6)
    adversarial_auc_step(network, loss, attack, optimizer, x, target)
    delta = attack(twin, x, target, twin_loss.terms)
    value = twin_loss(twin(x + delta).squeeze(1), target)
    gradients = torch.autograd.grad(value, [*twin.parameters(), twin_loss.alpha])
    for p, before, g in zip(network.parameters(), twin.parameters(), gradients, strict=False):
        torch.testing.assert_close(p, before - 0.1 * g)
    torch.testing.assert_close(loss.alpha, (twin_loss.alpha + 0.1 * gradients[-1]).clamp(-0.2, 1))


def test_robust_auroc_is_clean_at_no_radius_and_falls_with_it_in_any_batches():
    network, (_, _, x, _) = _network(5), _linear(5)
    target = (network(x).squeeze(1) > network(x).median()).long()
    attack = PGDAttack(eps=0.1, step=0.03, steps=6, random_start=False)
    found = robust_auroc(network, x, target, [0.02, 0.1, 0.3], attack)
    assert found[0.0] == auroc(network(x).squeeze(1).detach(), target)
    values = [float(v) for v in found.values()]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]
    small = robust_auroc(network, x, target, [0.02, 0.1, 0.3], attack, batch_size=1)
    assert small == found


def test_the_metric_of_batches_is_that_of_the_whole():
    network, (_, _, x, _) = _network(5), _linear(5)
    target = (network(x).squeeze(1) > network(x).median()).long()
    attack = PGDAttack(eps=0.1, step=0.03, steps=6, random_start=False)
    metric = RobustAUROC(attack, [0.02, 0.1])
    for rows in torch.arange(12).split(5):
        metric.update(network, x[rows], target[rows])
    assert metric.compute() == robust_auroc(network, x, target, [0.02, 0.1], attack)
    metric.reset()
    with pytest.warns(UserWarning, match="before"):
        assert all(value.isnan() for value in metric.compute().values())


def test_the_metric_draws_its_starts_from_its_seed_and_says_what_is_undefined():
    network, (_, _, x, target) = _network(5), _linear(5)
    found = []
    for seed in (0, 0, 1):
        metric = RobustAUROC(PGDAttack(eps=0.3, step=0.2, steps=1), [0.3], seed=seed)
        for rows in torch.arange(12).split(6):
            metric.update(network, x[rows], target[rows])
        found.append(torch.cat(metric.scores))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    metric = RobustAUROC(PGDAttack(eps=0.3, step=0.2, steps=1), [0.3])
    for _ in range(2):
        metric.update(network, x, target)
    assert torch.equal(metric.scores[0][:, 0], metric.scores[1][:, 0])
    assert not torch.equal(*metric.scores)
    metric = RobustAUROC(PGDAttack(eps=0.3), [0.3], on_undefined="raise")
    metric.update(network, x[:4], target[:4])
    with pytest.raises(ValueError, match="class"):
        metric.compute()


def test_forward_draws_the_starts_of_a_batch_as_update_does():
    attack = PGDAttack(eps=0.3, step=0.2, steps=1)
    inputs, target = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2
    metrics = [RobustAUROC(attack, [0.3]) for _ in range(2)]
    for _ in range(3):
        metrics[0].update(lambda x: (3 * x).sin().sum(1), inputs, target)
        metrics[1](lambda x: (3 * x).sin().sum(1), inputs, target)
    kept = [torch.cat(metric.scores) for metric in metrics]
    assert kept[0].equal(kept[1])
    assert not kept[0][:8].equal(kept[0][8:16])


def test_a_batch_of_one_class_is_attacked_where_it_is_judged_and_in_inference_mode():
    w, model, x, _ = _linear()
    attack = PGDAttack(eps=0.1, step=0.03, steps=8, bounds=(-9.0, 9.0), random_start=False)
    with torch.inference_mode():
        worst = attacked_scores(model, 1 * x, torch.ones(12).long(), 0.05, attack)
    torch.testing.assert_close(worst, model(x - 0.05 * w.sign()))
    network, target = _network(), (torch.arange(12) < 4).long()
    early = PGDAttack(eps=0.2, step=0.05, steps=6, random_start=False, fosc_threshold=1e-3)
    with torch.inference_mode():
        found = early(network, 1 * x, 1 * target, loss_agnostic_terms)
    torch.testing.assert_close(found.clone(), early(network, x, target, loss_agnostic_terms))


def test_steps_are_in_proportion_to_the_radius():
    x, target = torch.full((2, 1), 0.5), torch.tensor([1, 0])
    attack = PGDAttack(eps=0.1, step=0.02, steps=2, random_start=False)
    for radius in (0.05, 0.1, 0.4):
        worst = attacked_scores(lambda z: z, x, target, radius, attack)
        torch.testing.assert_close(worst, 0.5 + 0.4 * radius * torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_many_samples(dtype):
    logits = torch.randn(70_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    target = (torch.arange(70_000) < 700).long()
    loss = MinMaxAUCLoss()
    assert loss(logits, target).item() == pytest.approx(loss(logits.double(), target).item(), rel=1e-4)
    halves = logits.clone().requires_grad_()
    loss(halves, target).backward()
    assert halves.grad.dtype == dtype
    assert halves.grad.isfinite().all()


def test_no_room_or_one_class_changes_nothing():
    _, model, x, target = _linear()
    assert PGDAttack(eps=0.0)(model, x, target, loss_agnostic_terms).eq(0).all()
    assert PGDAttack(eps=0.1)(model, x, torch.ones(12).long(), loss_agnostic_terms).eq(0).all()
    scores = torch.rand(3, requires_grad=True)
    with pytest.warns(UserWarning, match="min-max AUC loss is zero"):
        value = minmax_auc_loss(scores, torch.zeros(3).long(), 0.1, 0.1, 0.1)
    value.backward()
    assert scores.grad.eq(0).all()


def test_its_variables_are_saved_and_stay_in_their_boxes():
    loss = MinMaxAUCLoss(init=(0.1, 0.9, -0.9))
    assert loss.alpha.item() == pytest.approx(-0.1)
    again = MinMaxAUCLoss()
    again.load_state_dict(loss.state_dict())
    assert again.b == loss.b
    loss.initialize(torch.tensor([2.0, -1.0]), torch.tensor([1, 0]))
    assert loss.alpha.item() == pytest.approx(loss.b.item() - loss.a.item())


X, Y = torch.rand(4, 2), torch.tensor([1, 0, 1, 0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PGDAttack(eps=-0.1), "eps=-0.1"),
        (lambda: PGDAttack(step=0.0), "step=0"),
        (lambda: PGDAttack(steps=-1), "steps=-1"),
        (lambda: PGDAttack(restarts=0), "restarts=0"),
        (lambda: PGDAttack(norm="l1"), "norm='l1'"),
        (lambda: PGDAttack(keep="first"), "keep='first'"),
        (lambda: PGDAttack()(lambda x: x.sum(1), 2 + X, Y, loss_agnostic_terms), "did you normalise before attacking"),
        (lambda: PGDAttack()(lambda x: x.sum(1), X * float("nan"), Y, loss_agnostic_terms), "NaN"),
        (lambda: MinMaxAUCLoss("prior"), "needs a prior"),
        (lambda: MinMaxAUCLoss(prior=0.3), "does not use a prior"),
        (lambda: MinMaxAUCLoss("prior", prior=1.0), "prior=1.0"),
        (lambda: MinMaxAUCLoss(inner="exact"), "inner='exact'"),
        (lambda: minmax_auc_loss(torch.tensor([2.0, 0.0]), torch.tensor([1, 0]), 0.0, 0.0, 0.0), "scores"),
        (lambda: minmax_inner_solution(torch.rand(2), torch.tensor([1, 1])), "needs both"),
        (lambda: robust_auroc(lambda x: x.sum(1), X, Y, [0.1], PGDAttack(eps=0.0)), "the attack's eps"),
        (lambda: robust_auroc(lambda x: x.sum(1), X, Y, [-0.1], PGDAttack()), r"radii\[0\]=-0.1"),
        (lambda: RobustAUROC(PGDAttack(eps=0.0), [0.1]), "the attack's eps"),
        (lambda: RobustAUROC(PGDAttack(), [-0.1]), r"radii\[0\]=-0.1"),
        (lambda: RobustAUROC(PGDAttack(), [0.1], on_undefined="zero"), "on_undefined='zero'"),
    ],
)
def test_bad_input_is_named(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()


def test_terms_of_a_column_of_scores_are_refused_and_not_those_of_every_pair(plain_inputs):
    target = torch.tensor([0, 1, 0, 1])
    for terms in (loss_agnostic_terms, MinMaxAUCLoss().terms):
        with pytest.raises(ValueError, match=r"scores must have shape \(n,\), got \(4, 1\)"):
            terms(torch.rand(4, 1), target)


@pytest.mark.parametrize("terms", [lambda s, y: s.mean(), lambda s, y: s[:, None] * y])
def test_an_attack_needs_one_value_per_sample(terms):
    with pytest.raises(ValueError, match=r"one value per sample, shape \(4,\), got \((4, 4)?\)"):
        PGDAttack(0.1, 0.1, 2)(lambda x: x, torch.rand(4, 1), torch.tensor([0, 1, 0, 1]), terms)
