"""The instance-wise partial AUC objectives against the pairs that they do without, and how they train."""

import io
import itertools
import math

import pytest
import torch

from equipoise.core.solvers.saddle import descent_ascent, variables
from equipoise.core.solvers.saddle_solvers import AcceleratedDescentAscent
from equipoise.ranking import (
    ExactPartialSquareLoss,
    InstancewisePartialAUCLoss,
    UnbiasedInstancewisePartialAUCLoss,
    exact_partial_square_risk,
    instancewise_partial_auc_objective,
    opauc,
    smoothing_gap,
)
from equipoise.ranking.partial.instancewise_objective import InnerVariables, inner_solution
from equipoise.ranking.partial.smoothing_gap import smoothing_gap_table

REGIONS = list(itertools.product([1.0, 0.5, 0.37, 0.8], [1.0, 0.3, 0.5, 0.77]))
LOSSES = [
    InstancewisePartialAUCLoss,
    UnbiasedInstancewisePartialAUCLoss,
]
NAMES = ("a", "b", "gamma", "s_pos", "s_neg", "theta_a", "theta_b")


def _batch(n=40, seed=0, ties=False):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, generator=generator, dtype=torch.float64)
    target = (torch.arange(n) < max(1, n // 3)).long()[torch.randperm(n, generator=generator)]
    return (scores.mul(8).round() / 8 if ties else scores), target


def _pairs(scores, target, pos_frac, neg_frac, margin=1.0, boundary="fractional"):
    """The weighted double loop over sorted scores."""

    def weighted(x, share, descending):
        x = x.sort(descending=descending).values
        total = share * len(x)
        whole = math.floor(total + 1e-9)
        weight = [1.0] * whole + [0.0] * (len(x) - whole)
        if boundary == "fractional" and total - whole > 1e-9:
            weight[whole] = total - whole
        return x, torch.tensor(weight, dtype=x.dtype)

    pos, w = weighted(scores[target == 1], pos_frac, False)
    neg, v = weighted(scores[target == 0], neg_frac, True)
    pair = (margin - pos[:, None] + neg[None, :]) ** 2 * w[:, None] * v[None, :]
    return pair.sum() / (w.sum() * v.sum())


def _region(pos_frac, neg_frac):
    return {"max_fpr": neg_frac, "min_tpr": 1 - pos_frac}


@pytest.mark.parametrize("boundary", ["floor", "fractional"])
@pytest.mark.parametrize(("pos_frac", "neg_frac"), REGIONS)
def test_the_exact_risk_is_the_mean_over_the_kept_pairs(pos_frac, neg_frac, boundary):
    scores, target = _batch()
    mine, theirs = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    risk = exact_partial_square_risk(
        mine, target, **_region(pos_frac, neg_frac), margin=0.7, boundary=boundary, from_logits=False
    )
    wanted = _pairs(theirs, target, pos_frac, neg_frac, 0.7, boundary)
    torch.testing.assert_close(risk.loss, wanted, rtol=1e-10, atol=0)
    risk.loss.backward()
    wanted.backward()
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)
    assert float(risk.gamma) == pytest.approx(float(risk.b - risk.a))


@pytest.mark.usefixtures("plain_inputs")  # thousands of calls, each of which would be checked
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("pos_frac", "neg_frac"), REGIONS)
def test_at_the_inner_solution_the_objective_is_the_risk_of_the_kept_pairs_less_one(pos_frac, neg_frac, ties):
    for n, seed in ((7, 0), (7, 1), (40, 2)):
        scores, target = _batch(n, seed, ties)
        region = _region(pos_frac, neg_frac)
        inner, weight = inner_solution(scores, target, **region, from_logits=False)
        options = {**region, "relaxation": "auxiliary", "from_logits": False}
        wanted = _pairs(scores, target, pos_frac, neg_frac) - 1
        for c in (None, weight):
            value = instancewise_partial_auc_objective(scores, target, inner, weight=c, **options)
            torch.testing.assert_close(value, wanted, rtol=0, atol=1e-10)
        # A step in any minimised variable raises the value; one in gamma lowers it at these weights, in which, and not
        # in both together, the objective is concave.
        for name, value in inner._asdict().items():
            for step in (-0.05, 0.05):
                if value is None or (name.startswith("theta") and step < 0):
                    continue
                moved = inner._replace(**{name: value + step})
                c = weight if name == "gamma" else None
                there = instancewise_partial_auc_objective(scores, target, moved, weight=c, **options)
                assert (there <= wanted + 1e-10) if name == "gamma" else (there >= wanted - 1e-10), name
        low = max(-float(inner.a), float(inner.b) - 1) if pos_frac < 1 else float(inner.b) - 1
        assert low <= float(inner.gamma) <= 1


@pytest.mark.parametrize(("pos_frac", "neg_frac"), [(1.0, 0.3), (0.5, 0.4)])
@pytest.mark.parametrize("relaxation", ["softplus", "auxiliary"])
def test_the_objective_is_its_formula_with_the_gradient_of_finite_differences(relaxation, pos_frac, neg_frac):
    scores, target = _batch(9)
    two_way = pos_frac < 1
    weight = torch.rand(9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values = [0.7, 0.3, -0.2, -0.8, 0.9, 0.1, 0.2]
    kappa, omega = 4.0, 0.3

    def ours(scores, weight, *inner):
        named = dict(zip(NAMES, inner, strict=True)) | ({} if two_way else {"s_pos": None, "theta_a": None})
        return instancewise_partial_auc_objective(
            scores,
            target,
            InnerVariables(**named),
            **_region(pos_frac, neg_frac),
            relaxation=relaxation,
            kappa=kappa,
            omega=omega,
            weight=weight if relaxation == "auxiliary" else None,
            from_logits=False,
        )

    def formula():
        a, b, gamma, s_pos, s_neg, theta_a, theta_b = values
        sides = []
        for label, threshold, share in ((1, s_pos, pos_frac), (0, s_neg, neg_frac)):
            terms = []
            for s, t, c in zip(scores.tolist(), target.tolist(), weight.tolist(), strict=True):
                if t != label:
                    continue
                loss = (s - (a if t else b)) ** 2 + (-1 if t else 1) * 2 * (1 + gamma) * s
                if t and not two_way:
                    terms.append(loss)
                elif relaxation == "softplus":
                    terms.append(threshold + math.log1p(math.exp(kappa * (loss - threshold))) / kappa / share)
                else:
                    terms.append(threshold + c * (loss - threshold) / share - omega * c**2)
            sides.append(sum(terms) / len(terms))
        value = sum(sides) - (1 + omega) * gamma**2 - theta_b * (b - 1 - gamma)
        return value + (theta_a * (a + gamma) if two_way else 0)

    inner = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    assert float(ours(scores, weight, *inner).detach()) == pytest.approx(formula(), rel=1e-12)
    leaves = (scores.clone().requires_grad_(), weight.clone().requires_grad_(), *inner)
    assert torch.autograd.gradcheck(ours, leaves)


def test_the_closed_form_weights_attain_the_maximum():
    scores, target = _batch(20)
    inner = InnerVariables(0.6, 0.4, -0.1, -0.5, 0.8, 0.0, 0.0)
    options = {**_region(0.5, 0.3), "relaxation": "auxiliary", "omega": 0.2, "from_logits": False}
    best = instancewise_partial_auc_objective(scores, target, inner, **options)
    weight = torch.full((20,), 0.5, dtype=torch.float64, requires_grad=True)
    for _ in range(100):
        (ascent,) = torch.autograd.grad(
            instancewise_partial_auc_objective(scores, target, inner, weight=weight, **options), weight
        )
        weight = (weight + 20 * ascent).clamp(0, 1).detach().requires_grad_()
    found = instancewise_partial_auc_objective(scores, target, inner, weight=weight.detach(), **options)
    assert float(best - found) == pytest.approx(0, abs=1e-6)
    assert best >= found - 1e-12


def test_scores_are_logits_unless_said_otherwise():
    scores, target = _batch()
    for loss in (InstancewisePartialAUCLoss(0.3), UnbiasedInstancewisePartialAUCLoss(0.3), ExactPartialSquareLoss(0.3)):
        plain = type(loss)(0.3, from_logits=False)
        torch.testing.assert_close(loss(scores, target), plain(scores.sigmoid(), target))


@pytest.mark.parametrize("make", [*LOSSES, ExactPartialSquareLoss])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1e4, 0.0])
def test_extreme_and_equal_logits_in_every_precision_give_finite_values_and_gradients(make, dtype, scale):
    scores, target = _batch()
    logits = ((scores - 0.5) * 2 * scale).to(dtype).requires_grad_()
    loss = make(0.3, 0.5)
    value = loss(logits, target)
    assert value.dtype == torch.float32
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    assert all(torch.isfinite(p.grad) for p in loss.parameters())


@pytest.mark.parametrize("make", [*LOSSES, ExactPartialSquareLoss])
@pytest.mark.parametrize("label", [0, 1])
def test_a_batch_of_one_class_gives_zero_on_the_graph_and_one_warning(make, label):
    logits = torch.randn(5, requires_grad=True)
    with pytest.warns(UserWarning, match="zero on a batch of"):
        value = make(0.3)(logits, torch.full((5,), label))
    value.backward()
    assert value == 0
    assert logits.grad.eq(0).all()


def test_a_floor_that_keeps_nothing_gives_zero_and_one_warning():
    logits = torch.randn(5, requires_grad=True)
    with pytest.warns(UserWarning, match="less than one sample"):
        value = ExactPartialSquareLoss(0.1, boundary="floor")(logits, torch.tensor([1, 1, 0, 0, 0]))
    value.backward()
    assert value == 0


def test_the_loss_does_not_know_the_order_of_the_samples():
    scores, target = _batch()
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(3))
    for loss in (InstancewisePartialAUCLoss(0.3, 0.5), UnbiasedInstancewisePartialAUCLoss(0.3, 0.5)):
        torch.testing.assert_close(loss(scores, target), loss(scores[order], target[order]))


def test_variables_that_a_region_does_not_need_are_not_there():
    one_way, both = InstancewisePartialAUCLoss(0.3), InstancewisePartialAUCLoss(0.3, 0.5, constraint="project")
    assert [v.name for v in variables(one_way)] == ["a", "b", "gamma", "s_neg", "theta_b"]
    assert [v.name for v in variables(both)] == ["a", "b", "gamma", "s_pos", "s_neg"]
    assert [v.name for v in variables(InstancewisePartialAUCLoss(1.0))] == ["a", "b", "gamma", "theta_b"]
    assert [v.name for v in variables(both) if v.ascends] == ["gamma"]


def test_gamma_is_projected_between_bounds_that_follow_a_and_b():
    loss = InstancewisePartialAUCLoss(0.3, 0.5, constraint="project")
    with torch.no_grad():
        loss.a.fill_(0.4)
        loss.b.fill_(0.9)
        loss.gamma.fill_(-0.8)
    loss.project_()
    assert loss.gamma.item() == pytest.approx(-0.1)  # max(-a, b - 1)
    with torch.no_grad():
        loss.a.fill_(0.05)
        loss.gamma.fill_(-0.8)
    loss.project_()
    assert loss.gamma.item() == pytest.approx(-0.05)
    one_way = InstancewisePartialAUCLoss(0.3, constraint="project")
    with torch.no_grad():
        one_way.a.fill_(0.0)
        one_way.b.fill_(0.5)
        one_way.gamma.fill_(-0.8)
    one_way.project_()
    assert one_way.gamma.item() == pytest.approx(-0.5)


@pytest.mark.usefixtures("plain_inputs")  # thousands of steps, each of which would be checked
@pytest.mark.parametrize(
    ("pos_frac", "neg_frac", "constraint"),
    [(1.0, 0.3, "lagrange"), (0.5, 0.5, "project"), (0.6, 1.0, "lagrange"), (1.0, 1.0, "project")],
)
def test_descent_ascent_on_fixed_scores_comes_to_the_exact_risk(pos_frac, neg_frac, constraint):
    scores, target = _batch(400)
    region = _region(pos_frac, neg_frac)
    loss = UnbiasedInstancewisePartialAUCLoss(**region, omega=0.02, from_logits=False, constraint=constraint).double()
    optimizer = descent_ascent(torch.optim.SGD, loss, lr=0.1)
    for step in range(500):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (1 + step / 100)
        optimizer.zero_grad()
        value = loss(scores, target)
        value.backward()
        optimizer.step()
    exact = exact_partial_square_risk(scores, target, **region, from_logits=False)
    assert value.item() + 1 == pytest.approx(float(exact.loss), abs=0.03)
    assert loss.a.item() == pytest.approx(float(exact.a), abs=0.02)
    assert loss.b.item() == pytest.approx(float(exact.b), abs=0.02)
    assert loss.gamma.item() == pytest.approx(float(exact.gamma), abs=0.03)
    kept = loss.kept_fractions(scores, target)
    assert kept.neg == pytest.approx(neg_frac, abs=0.03)
    assert kept.pos == pytest.approx(pos_frac, abs=0.03)


@pytest.mark.parametrize("make", LOSSES)
def test_the_warm_start_is_the_inner_solution(make):
    scores, target = _batch()
    loss = make(0.3, 0.5)
    loss.initialize(scores, target)
    inner, _ = inner_solution(scores, target, max_fpr=0.3, min_tpr=0.5)
    for name, value in inner._asdict().items():
        assert getattr(loss, name).item() == pytest.approx(float(value), rel=1e-6), name
    with pytest.raises(ValueError, match="0 positives"):
        loss.initialize(scores, torch.zeros_like(target))


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.usefixtures("plain_inputs")  # as above
@pytest.mark.parametrize("solver", ["Adam", "accelerated"])
def test_a_linear_model_learns_under_both_solvers(make, solver):
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(400) < 40
    x = torch.randn(400, 3, generator=generator) + target[:, None] * torch.tensor([2.0, 1.0, 0.0])
    model, loss = torch.nn.Linear(3, 1), make(0.3, 0.2)
    with torch.no_grad():
        model.weight.zero_()
    loss.initialize(model(x).squeeze(1), target)
    if solver == "Adam":
        optimizer = descent_ascent(torch.optim.Adam, model, loss, lr=0.05)
    else:
        optimizer = AcceleratedDescentAscent(model, loss, lr=1.0, dual_lr=0.1, m=8)
    before = exact_partial_square_risk(model(x).squeeze(1), target, max_fpr=0.3, min_tpr=0.2).loss.item()

    def closure():
        optimizer.zero_grad()
        value = loss(model(x).squeeze(1), target)
        value.backward()
        return value

    for _ in range(150):
        optimizer.step(closure)
    assert opauc(model(x).squeeze(1), target, 0.3) > 0.5
    assert exact_partial_square_risk(model(x).squeeze(1), target, max_fpr=0.3, min_tpr=0.2).loss.item() < 0.9 * before


def _learned(**settings):
    return UnbiasedInstancewisePartialAUCLoss(0.3, 0.5, 0.1, c_mode="learned", num_samples=50, **settings)


def test_learned_weights_of_samples_outside_the_batch_stay():
    scores, target = _batch(12)
    loss, index = _learned(c_init=0.5), torch.arange(12) * 2
    optimizer = AcceleratedDescentAscent(loss, lr=1.0, dual_lr={"c": 20.0}, m=8)

    def closure():
        optimizer.zero_grad()
        value = loss(scores, target, index)
        value.backward()
        return value

    optimizer.step(closure)
    moved = loss.c.detach().squeeze(1) != 0.5
    assert set(moved.nonzero().squeeze(1).tolist()) <= set(index.tolist())
    assert moved.sum() >= 6
    assert loss.c.grad.is_sparse


def test_a_repeated_sample_gets_the_sum_of_its_gradients():
    scores, target = _batch(6)
    loss = _learned(c_init=0.5)
    whole = torch.full((6,), 0.5, requires_grad=True)
    loss(scores, target, torch.tensor([3, 3, 4, 4, 3, 9])).backward()
    instancewise_partial_auc_objective(
        scores, target, loss.inner, max_fpr=0.3, min_tpr=0.5, relaxation="auxiliary", omega=0.1, weight=whole
    ).backward()
    gradient = loss.c.grad.to_dense().squeeze(1)
    torch.testing.assert_close(gradient[3], whole.grad[[0, 1, 4]].sum())
    torch.testing.assert_close(gradient[4], whole.grad[[2, 3]].sum())
    torch.testing.assert_close(gradient[9], whole.grad[5])
    assert gradient[[0, 1, 2, 5]].eq(0).all()


def test_learned_weights_start_at_the_saddle_point_of_their_batch_and_come_near_the_closed_form():
    scores, target = _batch(50)
    loss, index = _learned(from_logits=False), torch.randperm(50, generator=torch.Generator().manual_seed(1))
    loss.initialize(scores, target, index)
    _, weight = inner_solution(scores, target, max_fpr=0.3, min_tpr=0.5, from_logits=False)
    torch.testing.assert_close(loss.c.detach()[index].squeeze(1), weight.to(loss.c.dtype))
    kept = loss.kept_fractions(scores, target, index)
    assert kept.neg == pytest.approx(0.3, abs=1e-6)
    assert kept.pos == pytest.approx(0.5, abs=1e-6)
    closed = UnbiasedInstancewisePartialAUCLoss(0.3, 0.5, 0.1, from_logits=False)
    closed.initialize(scores, target)
    optimizer = descent_ascent(torch.optim.SGD, loss, lr=1e-9, dual_lr={"c": 5.0} | dict.fromkeys(NAMES, 1e-9))
    for _ in range(400):
        optimizer.zero_grad()
        loss(scores, target, index).backward()
        optimizer.step()
    torch.testing.assert_close(loss(scores, target, index), closed(scores, target), rtol=0, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"c_mode": "learned", "num_samples": 40}])
def test_a_state_dict_brings_every_variable_back(settings):
    scores, target = _batch()
    options = {} if not settings else {"index": torch.arange(40)}
    loss = UnbiasedInstancewisePartialAUCLoss(0.3, 0.5, **settings)
    loss.initialize(scores, target, **options)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    again = UnbiasedInstancewisePartialAUCLoss(0.3, 0.5, **settings)
    assert again(scores, target, **options) != loss(scores, target, **options)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again(scores, target, **options) == loss(scores, target, **options)


def test_another_size_of_the_training_set_is_refused_where_weights_are_loaded():
    with pytest.raises(RuntimeError, match="size mismatch for c"):
        UnbiasedInstancewisePartialAUCLoss(0.3, 0.5, c_mode="learned", num_samples=3).load_state_dict(
            _learned().state_dict()
        )


@pytest.mark.parametrize(("pos_frac", "neg_frac"), [(1.0, 0.3), (0.5, 0.5), (0.37, 1.0)])
def test_gaps_stay_in_their_bounds_and_close_with_the_smoothing(pos_frac, neg_frac):
    scores = torch.distributions.Beta(2.0, 2.0)
    torch.manual_seed(0)
    scores, target = scores.sample((200,)).double(), (torch.arange(200) < 60).long()
    region = {**_region(pos_frac, neg_frac), "from_logits": False}
    soft = [smoothing_gap(scores, target, kappa=k, **region) for k in (2.0, 4.0, 8.0, 64.0, 1024.0)]
    weighted = [
        smoothing_gap(scores, target, relaxation="auxiliary", omega=w, **region) for w in (1.0, 0.1, 0.01, 0.001, 0.0)
    ]
    for gaps in (soft, weighted):
        sizes = [abs(g.gap) for g in gaps]
        assert sizes == sorted(sizes, reverse=True)
        for g in gaps:
            assert g.lower_bound - 1e-12 <= g.gap <= g.upper_bound + 1e-12
            assert g.exact_value == pytest.approx(float(_pairs(scores, target, pos_frac, neg_frac)), rel=1e-10)
    assert abs(weighted[-1].gap) < 1e-12
    assert 0 < soft[-1].gap < 1e-4


@pytest.mark.usefixtures("plain_inputs")  # as above
@pytest.mark.parametrize("max_fpr", [0.3, 0.9])
@pytest.mark.parametrize(("relaxation", "strength"), [("softplus", 4.0), ("softplus", 0.5), ("auxiliary", 0.2)])
def test_no_threshold_on_a_grid_is_below_the_smoothed_value(relaxation, strength, max_fpr):
    scores, target = _batch(30)
    option = {"kappa" if relaxation == "softplus" else "omega": strength}
    region = {"max_fpr": max_fpr, "min_tpr": 0.4, "relaxation": relaxation, "from_logits": False, **option}
    gap = smoothing_gap(scores, target, **region)
    inner, _ = inner_solution(scores, target, max_fpr=max_fpr, min_tpr=0.4, from_logits=False)
    grid = [
        1
        + float(
            instancewise_partial_auc_objective(scores, target, inner._replace(s_pos=float(s), s_neg=float(t)), **region)
        )
        for s, t in itertools.product(torch.linspace(-4, 1, 21), torch.linspace(-5, 4, 25))
    ]
    assert gap.smoothed_value <= min(grid) + 1e-12
    assert gap.smoothed_value == pytest.approx(min(grid), abs=0.1)


def test_the_table_says_that_the_bias_stays_where_the_sampling_error_falls():
    scores, target = _batch(5000)
    rows = smoothing_gap_table(
        scores, target, max_fpr=0.3, sizes=[50, 5000], kappas=[4.0], omegas=[0.0], draws=10, from_logits=False
    )
    (small_soft, small_exact, large_soft, large_exact) = rows
    assert [r.samples for r in rows] == [50, 50, 5000, 5000]
    assert large_soft.gap == pytest.approx(small_soft.gap, rel=0.3)
    assert large_soft.sampling_error < 0.3 * small_soft.sampling_error
    assert max(small_exact.largest_gap, large_exact.largest_gap) < 1e-10


def test_strong_concavity_counts_the_fractions():
    assert not InstancewisePartialAUCLoss(0.3, kappa=2.0).strongly_concave
    assert InstancewisePartialAUCLoss(0.5, kappa=2.0, omega=1.1).strongly_concave
    assert not InstancewisePartialAUCLoss(0.5, 0.5, kappa=2.0, omega=1.1).strongly_concave


def test_one_process_is_all_processes():
    scores, target = _batch()
    for make in (*LOSSES, ExactPartialSquareLoss):
        assert make(0.3, gather=True)(scores, target) == make(0.3)(scores, target)


@pytest.mark.usefixtures("plain_inputs")
def test_misuse_is_said():
    scores, target = _batch(6)
    with pytest.raises(ValueError, match="num_samples=None"):
        UnbiasedInstancewisePartialAUCLoss(0.3, c_mode="learned")
    with pytest.raises(ValueError, match="index is missing"):
        _learned()(scores, target)
    for wrong in (-1, 50):
        with pytest.raises(ValueError, match=f"index holds the value {wrong}"):
            _learned()(scores, target, torch.tensor([0, 1, 2, wrong, 4, 5]))
    with pytest.raises(ValueError, match="must lie in"):
        InstancewisePartialAUCLoss(0.3, from_logits=False)(scores * 3, target)
    with pytest.raises(ValueError, match=r"inner\.s_neg is None"):
        instancewise_partial_auc_objective(scores, target, InnerVariables(0, 0, 0), max_fpr=0.3)
    with pytest.raises(ValueError, match="weight belongs to"):
        instancewise_partial_auc_objective(
            scores, target, InnerVariables(0, 0, 0, s_neg=0.0), max_fpr=0.3, weight=scores
        )
    with pytest.raises(ValueError, match="draws=0"):
        smoothing_gap_table(scores, target, max_fpr=0.3, draws=0)
