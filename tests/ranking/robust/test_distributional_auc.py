import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from equipoise.core.solvers.saddle import descent_ascent
from equipoise.data import CORRUPTIONS, corrupt
from equipoise.ranking import DRAUCLoss, WassersteinPerturbation, auroc, corrupted_auroc, drauc_loss, wasserstein_ascent
from equipoise.ranking.robust.distributional_auc import margin_auc_terms
from equipoise.ranking.robust.wasserstein import class_budgets, dual_step, transport_cost

TARGET = (torch.arange(10) < 3).long()


def _scores(seed=0):
    return torch.rand(10, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(seed=st.integers(0, 500), k=st.sampled_from([1.0, 2.5]), margin=st.sampled_from([0.0, 0.3, 1.0]))
def test_the_loss_by_hand_and_its_maximum_over_alpha(seed, k, margin):
    s, (a, b) = _scores(seed), torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()
    pos, neg = s[:3], s[3:]
    gap = float(neg.mean() - pos.mean())

    def by_hand(alpha):
        square = sum((v - a) ** 2 for v in pos.tolist()) / 3 + sum((v - b) ** 2 for v in neg.tolist()) / 7
        return square + 2 * alpha * (margin + gap) - k * alpha**2

    for alpha in (0.0, 0.7):
        assert drauc_loss(s, TARGET, a, b, alpha, margin=margin, k=k).item() == pytest.approx(by_hand(alpha), rel=1e-9)
        terms = margin_auc_terms(s, TARGET, a, b, alpha, margin=margin, k=k)
        assert terms.mean().item() == pytest.approx(by_hand(alpha), rel=1e-9)
    best = max(margin + gap, 0.0) / k
    top = drauc_loss(s, TARGET, a, b, best, margin=margin, k=k)
    assert top.item() == pytest.approx(by_hand(0.0) + max(margin + gap, 0.0) ** 2 / k, rel=1e-9)
    for other in (best + 0.1, max(best - 0.1, 0.0)):
        assert drauc_loss(s, TARGET, a, b, other, margin=margin, k=k) <= top + 1e-12


def test_scores_that_are_exactly_zero_or_at_their_mean_count():
    s = torch.tensor([0.0, 0.6, 0.0, 0.0])
    target = torch.tensor([1, 1, 0, 0])
    # The published mean would leave out the zeros.
    assert drauc_loss(s, target, 0.0, 0.0, 1.0).item() == pytest.approx(0.36 / 2 + 2 * (1 - 0.3) - 1)


def test_initialisation_and_the_closed_form_are_the_saddle_point():
    logits = torch.randn(10, generator=torch.Generator().manual_seed(1))
    loss = DRAUCLoss(margin=0.5, k=2.0, alpha_rule="closed_form")
    loss.initialize(logits, TARGET)
    p = logits.sigmoid()
    assert loss.a.item() == pytest.approx(p[:3].mean().item())
    expected = max(0.0, 0.5 + (p[3:].mean() - p[:3].mean()).item()) / 2
    assert loss.alpha.item() == pytest.approx(expected)
    with torch.no_grad():
        loss.alpha.fill_(9.0)
    loss(logits, TARGET)
    assert loss.alpha.item() == pytest.approx(expected)
    loss.eval()
    with torch.no_grad():
        loss.alpha.fill_(9.0)
    loss(logits, TARGET)
    assert loss.alpha == 9.0


def test_the_released_rule_changes_nothing_but_the_gradient_of_alpha():
    logits, values = torch.randn(10, generator=torch.Generator().manual_seed(1)), (0.7, 0.2, 0.9)
    found = {}
    for rule in ("gradient", "pesg"):
        loss, leaf = DRAUCLoss(margin=0.6, k=2.0, alpha_rule=rule), logits.clone().requires_grad_()
        with torch.no_grad():
            for parameter, value in zip((loss.a, loss.b, loss.alpha), values, strict=True):
                parameter.fill_(value)
        result = loss(leaf, TARGET)
        result.backward()
        found[rule] = [result.detach(), leaf.grad, loss.a.grad, loss.b.grad]
        gap = float(logits[3:].sigmoid().mean() - logits[:3].sigmoid().mean())
        a, b, alpha = values
        wanted = 2 * (0.6 + gap) - 2 * 2.0 * alpha if rule == "gradient" else 2 * (0.6 + b - a) - 2 * alpha
        assert loss.alpha.grad.item() == pytest.approx(wanted, rel=1e-5)
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("k", [1.0, 2.0])
def test_where_the_rules_for_alpha_come_to_rest(k):
    logits = torch.randn(10, generator=torch.Generator().manual_seed(1)).double()
    ends = {}
    for rule in ("gradient", "pesg", "closed_form"):
        loss = DRAUCLoss(margin=0.5, k=k, alpha_rule=rule).double()
        optimizer = descent_ascent(torch.optim.SGD, loss, lr=0.1)
        for _ in range(200):
            optimizer.zero_grad()
            loss(logits, TARGET).backward()
            optimizer.step()
        ends[rule] = loss.alpha.item()
    assert ends["gradient"] == pytest.approx(ends["closed_form"], abs=1e-6)
    assert ends["pesg"] == pytest.approx(k * ends["closed_form"], abs=1e-6)
    assert ends["closed_form"] > 0


def test_the_released_rule_keeps_alpha_at_least_zero_and_leaves_it_on_one_class():
    loss = DRAUCLoss(margin=0.0, alpha_rule="pesg")
    with torch.no_grad():
        loss.a.fill_(1.0)
    optimizer = descent_ascent(torch.optim.SGD, loss, lr=0.1)
    loss(torch.linspace(-1, 1, 10), TARGET).backward()
    optimizer.step()
    assert loss.alpha == 0
    optimizer.zero_grad()
    with pytest.warns(UserWarning, match="zero on a batch"):
        value = loss(torch.zeros(4, requires_grad=True), torch.zeros(4, dtype=torch.long))
    value.backward()
    assert loss.alpha.grad is None


def test_duality_on_a_linear_scorer_in_one_dimension():
    # max of mean h(x_i + d_i) with mean d_i^2 <= eps is the minimum over lambda of lambda eps + mean phi_lambda(x_i);
    # h(z) = -z for positives and z for negatives, so d = -+ sqrt(eps) and phi = h(x) + 1 / (4 lambda).
    x = torch.rand(10, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    eps = 0.04

    def terms(scores, target):
        return torch.where(target == 1, -scores, scores)

    dual = []
    for multiplier in torch.linspace(0.5, 10, 96, dtype=torch.float64):
        moved = wasserstein_ascent(
            lambda z: z,
            x,
            TARGET,
            terms,
            multiplier.expand(10),
            torch.zeros_like(x),
            steps=400,
            lr=0.02,
            bounds=(-9.0, 9.0),
            normalize=False,
        )
        value = terms((x + moved.delta).squeeze(1), TARGET) - multiplier * moved.cost
        assert value.mean().item() == pytest.approx(
            float(terms(x.squeeze(1), TARGET).mean() + 1 / (4 * multiplier)), abs=1e-3
        )
        dual.append((multiplier * eps + value.mean()).item())
    primal = float(terms(x.squeeze(1), TARGET).mean()) + math.sqrt(eps)
    assert min(dual) == pytest.approx(primal, abs=2e-3)
    assert 0.5 + 0.1 * dual.index(min(dual)) == pytest.approx(1 / (2 * math.sqrt(eps)), abs=0.2)


def _network():
    network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(2 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return network


X = torch.rand(10, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_a_dear_transport_moves_nothing_and_the_loss_is_the_plain_one():
    loss = DRAUCLoss().double()
    ball = WassersteinPerturbation(eps=0.1, steps=60, lr=0.001, lambda_init=1e6, lambda_period=100, select="best")
    delta = ball(_network(), X, TARGET, loss.terms, torch.Generator().manual_seed(0))
    assert transport_cost(delta).max() < 0.1
    moved = wasserstein_ascent(
        _network(),
        X,
        TARGET,
        loss.terms,
        torch.full((10,), 1e6, dtype=torch.float64),
        torch.zeros_like(X),
        steps=20,
        lr=0.01,
        select="best",
    )
    assert moved.delta.eq(0).all()


def test_the_best_change_is_never_worse_than_the_last_or_none():
    network, loss = _network(), DRAUCLoss().double()
    multiplier = torch.full((10,), 0.2, dtype=torch.float64)

    def penalised(delta):
        with torch.no_grad():
            return loss.terms(network(X + delta).squeeze(1), TARGET) - multiplier * transport_cost(delta)

    options = {"steps": 6, "lr": 0.4}
    found = {
        select: penalised(
            wasserstein_ascent(
                network, X, TARGET, loss.terms, multiplier, torch.zeros_like(X), **options, select=select
            ).delta
        )
        for select in ("best", "last")
    }
    assert (found["best"] >= found["last"] - 1e-12).all()
    assert (found["best"] >= penalised(torch.zeros_like(X)) - 1e-12).all()
    assert (found["best"] > found["last"] + 1e-9).any()


def test_budgets_average_to_the_whole_and_a_budget_that_leaves_nothing_is_refused():
    found = class_budgets(0.5, prior=0.1, k=1.5)
    assert 0.1 * found.eps_pos + 0.9 * found.eps_neg == pytest.approx(0.5)
    assert class_budgets(0.5, prior=0.3) == pytest.approx((0.5, 0.5))
    with pytest.raises(ValueError, match="must be below 10"):
        class_budgets(0.5, prior=0.1, k=10.0)


def test_the_price_rises_above_the_budget_falls_below_it_and_stops_at_zero():
    assert dual_step(1.0, 0.5, 0.8, 0.1).item() == pytest.approx(1.03)
    assert dual_step(1.0, 0.5, 0.2, 0.1).item() == pytest.approx(0.97)
    assert dual_step(0.01, 5.0, 0.0, 0.1) == 0


@pytest.mark.parametrize("mode", ["free", "aware"])
def test_the_cost_settles_at_the_budget(mode):
    # With weight n/n+ on few positives, one ball is spent on them; two balls are spent as they are given out.
    ball = WassersteinPerturbation(
        eps=0.02,
        mode=mode,
        prior=0.3,
        steps=8,
        lr=0.05,
        lambda_init=1.0,
        lambda_lr=20.0,
        lambda_period=1,
        bounds=(-9.0, 9.0),
    )
    w = torch.tensor([1.0, -1.0, 0.5, 0.2], dtype=torch.float64)
    loss = DRAUCLoss(from_logits=False).double()
    with torch.no_grad():
        loss.a.fill_(0.6), loss.b.fill_(0.4), loss.alpha.fill_(0.5)
    history = []
    for step in range(200):
        delta = ball(
            lambda z: (0.5 + 0.2 * z @ w).clamp(0, 1), X, TARGET, loss.terms, torch.Generator().manual_seed(step)
        )
        history.append(transport_cost(delta))
    cost = torch.stack(history[-100:]).mean(0)
    assert cost.mean().item() == pytest.approx(0.02, rel=0.35)
    pos, neg = cost[:3].mean().item(), cost[3:].mean().item()
    if mode == "aware":
        assert ball.lambda_pos > ball.lambda_neg
        assert pos == pytest.approx(neg, rel=0.5)
    else:
        assert ball.lambda_pos == ball.lambda_neg
        assert pos > 2 * neg


def test_a_ball_resumes_where_it_was():
    loss, network = DRAUCLoss().double(), _network()
    ball = WassersteinPerturbation(eps=0.02, steps=2, lambda_period=3)
    for step in range(4):
        ball(network, X, TARGET, loss.terms, torch.Generator().manual_seed(step))
    again = WassersteinPerturbation(eps=0.02, steps=2, lambda_period=3)
    again.load_state_dict(ball.state_dict())
    for step in range(4, 7):
        for b in (ball, again):
            b(network, X, TARGET, loss.terms, torch.Generator().manual_seed(step))
    assert again.lambda_pos == ball.lambda_pos != 1.0
    assert torch.equal(again.costs, ball.costs)


def test_a_class_that_was_not_seen_keeps_its_price():
    ball = WassersteinPerturbation(eps=0.02, mode="aware", prior=0.3)
    ball.costs[1] = torch.tensor([5.0, 5.0])
    ball.dual_update()
    assert ball.lambda_pos == 1
    assert ball.lambda_neg > 1
    assert ball.costs.eq(0).all()
    assert math.isnan(ball.mean_costs()[0])


def test_projection_keeps_changes_in_the_ball_and_inputs_in_their_box():
    ball = WassersteinPerturbation(eps=0.01, steps=10, lr=0.2, lambda_init=0.0, project=True)
    delta = ball(_network(), X, TARGET, DRAUCLoss().double().terms, torch.Generator().manual_seed(0))
    assert transport_cost(delta).max() <= 0.01 + 1e-9
    assert (X + delta).min() >= 0
    assert (X + delta).max() <= 1


def test_with_a_ball_a_class_every_class_is_kept_in_its_own():
    ball = WassersteinPerturbation(
        eps=0.01, mode="aware", prior=0.3, k=2.0, steps=20, lr=0.05, lambda_init=0.0, project=True, bounds=(-9.0, 9.0)
    )
    w = torch.tensor([1.0, -1.0, 0.5, 0.2], dtype=torch.float64)
    loss = DRAUCLoss(from_logits=False).double()
    with torch.no_grad():
        loss.alpha.fill_(2.0)
    delta = ball(lambda z: 0.5 + 0.1 * z @ w, X, TARGET, loss.terms, torch.Generator().manual_seed(0))
    pos, neg = ball.budgets
    assert pos == pytest.approx(0.02)
    torch.testing.assert_close(transport_cost(delta), torch.where(TARGET == 1, pos, neg).double(), rtol=1e-6, atol=0)


def _report(**options):
    images = torch.rand(60, 8, 8, generator=torch.Generator().manual_seed(0))
    target = (torch.arange(60) % 3 == 0).long()
    images[:, :2] = (images[:, :2] + 0.2 * target[:, None, None]).clamp(0, 1)
    layer = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 1))
    with torch.no_grad():
        layer[2].weight.copy_((torch.arange(64) < 16).float()[None])
    return corrupted_auroc(layer, images, target, **options), layer.eval(), images, target


def test_the_auc_of_corrupted_images_is_that_of_each_set_and_their_mean():
    report, model, images, target = _report(batch_size=7)
    assert list(report.by_kind) == list(CORRUPTIONS)
    assert report.clean == auroc(model(images).squeeze(1).detach(), target)
    with torch.no_grad():
        blurred = auroc(model(corrupt(images, "blur", 3)).squeeze(1), target)
    assert report.by_kind["blur"][3] == blurred
    values = [float(v) for kind in report.by_kind.values() for v in kind.values()]
    assert len(values) == 30
    assert float(report.mean) == pytest.approx(sum(values) / 30, abs=1e-6)
    noise = [float(v) for v in report.by_kind["gaussian_noise"].values()]
    assert noise[-1] < noise[0] <= report.clean + 0.02


def test_a_set_is_the_same_whichever_others_are_asked_for():
    whole, _, _, _ = _report(seed=4)
    some, _, _, _ = _report(seed=4, kinds=["occlusion"], severities=[2], batch_size=11)
    assert some.by_kind == {"occlusion": {2: whole.by_kind["occlusion"][2]}}
    assert some.mean == whole.by_kind["occlusion"][2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_counts_many_samples(dtype):
    logits = torch.randn(70_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    target = (torch.arange(70_000) < 700).long()
    loss = DRAUCLoss(alpha_rule="closed_form")
    assert loss(logits, target).item() == pytest.approx(loss(logits.double(), target).item(), rel=1e-4)


def test_robust_training_holds_against_noise_that_plain_training_falls_for():
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(400) < 40
    noise = torch.randn(2, 400, generator=generator)
    x = torch.stack([0.5 + 0.04 * target + 0.01 * noise[0], 0.4 + 0.3 * target + 0.15 * noise[1]], 1).clamp(0, 1)
    weights = {}
    for name in ("plain", "robust"):
        model, loss = nn.Linear(2, 1), DRAUCLoss()
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[4.0, 4.0]]))
            model.bias.fill_(-4.0)
        ball = WassersteinPerturbation(eps=0.01, steps=5, lr=0.05, lambda_lr=2.0)
        optimizer = descent_ascent(torch.optim.Adam, model, loss, lr=0.1, dual_lr=0.02)
        for step in range(250):
            delta = torch.zeros_like(x)
            if name == "robust":
                delta = ball(model, x, target, loss.terms, torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loss(model(x + delta).squeeze(1), target).backward()
            optimizer.step()
        weights[name] = (model.weight[0, 0] / model.weight[0, 1]).item()
    assert abs(weights["robust"]) < 0.8 * weights["plain"]


def test_a_batch_of_one_class_is_not_moved_and_gives_zero():
    ball, loss = WassersteinPerturbation(eps=0.1), DRAUCLoss().double()
    assert ball(_network(), X, torch.zeros(10).long(), loss.terms).eq(0).all()
    assert ball.batches == 0
    scores = torch.rand(3, requires_grad=True)
    with pytest.warns(UserWarning, match="robust AUC loss is zero"):
        value = drauc_loss(scores, torch.ones(3).long(), 0.1, 0.1, 0.1)
    value.backward()
    assert scores.grad.eq(0).all()


def _ascend(multiplier=None, steps=1, lr=0.1, **options):
    multiplier = torch.ones(10).double() if multiplier is None else multiplier
    return wasserstein_ascent(
        _network(),
        X,
        TARGET,
        DRAUCLoss().double().terms,
        multiplier,
        torch.zeros_like(X),
        steps=steps,
        lr=lr,
        **options,
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WassersteinPerturbation(eps=0.0), "eps=0"),
        (lambda: WassersteinPerturbation(eps=0.1, steps=0), "steps=0"),
        (lambda: WassersteinPerturbation(eps=0.1, lr=0.0), "lr=0"),
        (lambda: WassersteinPerturbation(eps=0.1, lambda_init=-1.0), "lambda_init=-1"),
        (lambda: WassersteinPerturbation(eps=0.1, mode="aware"), "needs the prior"),
        (lambda: WassersteinPerturbation(eps=0.1, mode="aware", prior=0.5, k=2.0), "must be below 2"),
        (lambda: WassersteinPerturbation(eps=0.1, norm="l1"), "norm='l1'"),
        (lambda: WassersteinPerturbation(eps=0.1)(_network(), X + 1, TARGET, DRAUCLoss().terms), "did you normalise"),
        (lambda: DRAUCLoss().initialize(torch.zeros(3), torch.ones(3).long()), "needs both"),
        (lambda: _report(kinds=[]), "no corruption"),
        (lambda: _report(kinds=["fog"]), "='fog' is not known"),
    ],
)
def test_bad_input_is_named(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()
