import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from equipoise.core.models.experts import MultiExpertHead
from equipoise.core.phases import set_epoch
from equipoise.longtail import (
    DirichletMixture,
    DirMixELoss,
    TestTimeAggregator,
    dirichlet_suite,
    dirmixe_loss,
    diverse_expert_loss,
    estimate_prior_bbse,
    estimate_prior_em,
    fixed_suite,
    suite_accuracy,
    view_consistency,
)
from equipoise.longtail.experts.dirichlet_experts import Trials, inverse_prior
from equipoise.longtail.experts.label_mixes import dirichlet_test_counts

COUNTS = [100, 46, 21, 10, 5]
PRIOR = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)


def _world(seed=0, n=7, m=9, scale=2.0):
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(3, n, 5, generator=g, dtype=torch.float64)
    return logits, torch.randint(5, (n,), generator=g), DirichletMixture(COUNTS, 50.0).sample(m, g)


def _by_hand(logits, target, trials, power, lam, norm, eps=1e-9):
    losses = []
    for q, k in zip(trials.distributions, trials.component.tolist(), strict=True):
        shift = (q.double() ** power / PRIOR**power + eps).log()
        losses.append(cross_entropy(logits[k] - shift, target))
    held = torch.stack(losses)
    above = held[held > held.mean()] - held.mean()
    divisor = {"above": max(len(above) - 1, 1), "total": len(held), "total-1": max(len(held) - 1, 1)}[norm]
    return held.mean() + lam * (above**2).sum() / divisor, held


@pytest.mark.parametrize("norm", ["above", "total", "total-1"])
@pytest.mark.parametrize("scale", [2.0, 200.0])
def test_the_loss_is_that_of_a_loop_over_trials(norm, scale):
    for seed in range(4):
        logits, target, trials = _world(seed, scale=scale)
        expected, held = _by_hand(logits, target, trials, 1.3, 4.0, norm)
        found = dirmixe_loss(logits, target, PRIOR, trials, lambda_var=4.0, semivariance_norm=norm)
        torch.testing.assert_close(found.trial_losses, held)
        torch.testing.assert_close(found.loss, expected)


def test_the_product_equals_the_direct_path_in_value_and_gradient():
    logits, target, trials = _world(5)
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(_by_hand(logits, target, trials, 1.3, 5.0, "above")[0], logits)
    (found,) = torch.autograd.grad(dirmixe_loss(logits, target, PRIOR, trials).loss, logits)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    single = dirmixe_loss(logits.detach().float(), target, PRIOR, trials).loss
    assert float(single) == pytest.approx(float(dirmixe_loss(logits, target, PRIOR, trials).loss.detach()), rel=1e-5)
    assert torch.autograd.gradcheck(lambda z: dirmixe_loss(z, target, PRIOR, trials).loss, logits)


def test_a_wide_range_of_adjustments_stays_finite():
    logits, target, _ = _world(6)
    extreme = torch.full((3, 5), 1e-8, dtype=torch.float64)
    extreme[:, 4] = 1 - 4e-8
    trials = Trials(extreme, torch.arange(3))
    expected, _ = _by_hand(logits, target, trials, 3.0, 5.0, "above")
    torch.testing.assert_close(dirmixe_loss(logits, target, PRIOR, trials, power=3.0).loss, expected)


def test_one_trial_has_no_variance_and_order_and_constants_change_nothing():
    logits, target, trials = _world(7)
    one = Trials(trials.distributions[:1], trials.component[:1])
    assert float(dirmixe_loss(logits, target, PRIOR, one).semivariance) == 0
    order = torch.randperm(7)
    torch.testing.assert_close(
        dirmixe_loss(logits[:, order], target[order], PRIOR, trials).loss,
        dirmixe_loss(logits, target, PRIOR, trials).loss,
    )
    shifted = logits + torch.tensor([3.0, -2.0, 0.0])[:, None, None]
    torch.testing.assert_close(
        dirmixe_loss(shifted, target, PRIOR, trials).loss, dirmixe_loss(logits, target, PRIOR, trials).loss
    )


def test_trials_at_the_centres_are_sade():
    logits, target, _ = _world(8)
    centres = torch.stack([PRIOR, torch.full((5,), 0.2, dtype=torch.float64), inverse_prior(PRIOR)])
    found = dirmixe_loss(logits, target, PRIOR, Trials(centres, torch.arange(3)), power=1.0, lambda_var=0.0, eps=0.0)
    torch.testing.assert_close(
        3 * found.loss, diverse_expert_loss(logits, target, PRIOR, tau=1.0, eps=0.0), rtol=1e-9, atol=1e-9
    )


def test_an_inverted_prior_deals_the_shares_out_again():
    torch.testing.assert_close(inverse_prior(inverse_prior(PRIOR)), PRIOR)
    mixed = torch.tensor([0.2, 0.5, 0.05, 0.25])
    assert inverse_prior(mixed).tolist() == pytest.approx([0.25, 0.05, 0.5, 0.2])
    tied = inverse_prior(torch.tensor([0.4, 0.1, 0.1, 0.4]))
    assert sorted(tied.tolist()) == pytest.approx([0.1, 0.1, 0.4, 0.4])


def test_draws_lie_around_their_centres_and_repeat():
    mixture = DirichletMixture(COUNTS, 200.0)
    trials = mixture.sample(4000, torch.Generator().manual_seed(0))
    again = mixture.sample(4000, torch.Generator().manual_seed(0))
    assert torch.equal(trials.distributions, again.distributions)
    for k in range(3):
        rows = trials.distributions[trials.component == k]
        centre = mixture.alpha[k] / 200
        torch.testing.assert_close(rows.mean(0), centre, rtol=0, atol=0.006)
        torch.testing.assert_close(rows.var(0), centre * (1 - centre) / 201, rtol=0.15, atol=1e-5)
    tiny = DirichletMixture([10**6, 1], 0.5).sample(200, torch.Generator().manual_seed(1)).distributions
    assert float(tiny.min()) > 0
    torch.testing.assert_close(tiny.sum(1), torch.ones(200, dtype=torch.float64))


def test_the_variance_counts_in_the_last_epochs_and_a_resumed_run_draws_the_same():
    loss = DirMixELoss(DirichletMixture(COUNTS), trials=5)
    for epoch in range(10):
        set_epoch(loss, epoch, 10)
        assert loss.current_lambda == (5.0 if epoch >= 8 else 0.0)
    logits, target, _ = _world(9)
    state = loss.state_dict()
    first = loss(logits, target)
    other = DirMixELoss(DirichletMixture(COUNTS), trials=5, seed=7)
    other.load_state_dict(state)
    set_epoch(other, 9, 10)
    torch.testing.assert_close(other(logits, target), first)


def test_experts_in_one_product_are_experts_one_by_one():
    torch.manual_seed(0)
    x = torch.randn(6, 4)
    plain = MultiExpertHead(4, 5, 3, hidden=7)
    for k in range(3):
        held = (x @ plain.hidden[k] + plain.hidden_bias[k]).relu()
        torch.testing.assert_close(plain(x)[k], held @ plain.weight[k] + plain.bias[k])
    cosine = MultiExpertHead(4, 5, 2, cosine=True, scale=10.0)
    expected = torch.nn.functional.cosine_similarity(x[:, None], cosine.weight[1].T[None], dim=2)
    torch.testing.assert_close(cosine(x)[1], 10 * expected)
    with pytest.raises(ValueError, match="num_experts=0"):
        MultiExpertHead(4, 5, 0)


def test_agreement_is_the_mean_cosine_of_predictions():
    g = torch.Generator().manual_seed(10)
    first, second = (torch.randn(3, 6, 4, generator=g, dtype=torch.float64) for _ in range(2))
    w = torch.randn(3, generator=g, dtype=torch.float64)
    a = w.softmax(0)
    total = 0.0
    for i in range(6):
        p, q = (sum(a[k] * view[k, i] for k in range(3)).softmax(0) for view in (first, second))
        total += float(p @ q / (p.norm() * q.norm()))
    assert float(view_consistency(first, second, w)) == pytest.approx(total / 6)
    assert torch.autograd.gradcheck(lambda v: view_consistency(first, second, v), w.requires_grad_())


def _views(seed=0):
    """The first expert agrees with itself, the others do not."""
    g = torch.Generator().manual_seed(seed)
    steady = 3 * torch.randn(60, 4, generator=g)
    return tuple(
        torch.stack([steady + 0.1 * torch.randn(60, 4, generator=g), *(3 * torch.randn(2, 60, 4, generator=g))])
        for _ in range(2)
    )


def test_the_steady_expert_gets_the_weight_and_order_follows():
    first, second = _views()
    found = TestTimeAggregator(3, lr=0.5, epochs=30).fit([(first, second)])
    assert float(found.weights[0]) > 0.6
    order = torch.tensor([2, 0, 1])
    moved = TestTimeAggregator(3, lr=0.5, epochs=30).fit([(first[order], second[order])])
    torch.testing.assert_close(moved.weights, found.weights[order])
    other = TestTimeAggregator(3)
    other.load_state_dict(found.state_dict())
    torch.testing.assert_close(other(first), found(first))
    torch.testing.assert_close(found(first), torch.einsum("k,knc->nc", found.weights, first))


def test_equal_experts_are_weighed_alike_and_so_are_all_before_fitting():
    view = torch.randn(1, 9, 4).expand(3, 9, 4)
    with pytest.warns(UserWarning, match="say the same"):
        assert TestTimeAggregator(3).fit([(view, view)]).weights.tolist() == pytest.approx([1 / 3] * 3)
    logits = torch.randn(3, 5, 4)
    with pytest.warns(UserWarning, match="not been fitted"):
        torch.testing.assert_close(TestTimeAggregator(3)(logits), logits.mean(0))
    wide = torch.randn(3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(TestTimeAggregator(3)(wide), wide.mean(0), rtol=1e-14, atol=1e-15)
    w = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(view_consistency(logits, logits + 1, w), torch.tensor(1.0))


def test_priors_are_found_without_labels():
    g = torch.Generator().manual_seed(11)
    centres, test_mix = 2.0 * torch.eye(3), torch.tensor([0.1, 0.2, 0.7])
    y = torch.multinomial(test_mix, 40000, replacement=True, generator=g)
    x = centres[y] + torch.randn(40000, 3, generator=g)
    train_mix = torch.tensor([0.6, 0.3, 0.1])
    posterior = (-(torch.cdist(x, centres) ** 2) / 2 + train_mix.log()).softmax(1)
    torch.testing.assert_close(estimate_prior_em(posterior, [6, 3, 1]).float(), test_mix, rtol=0, atol=0.03)
    held = torch.multinomial(train_mix, 40000, replacement=True, generator=g)
    x_held = centres[held] + torch.randn(40000, 3, generator=g)
    pred = (-(torch.cdist(x_held, centres) ** 2) / 2 + train_mix.log()).argmax(1)
    confusion = torch.zeros(3, 3).index_put_((held, pred), torch.ones(40000), accumulate=True)
    torch.testing.assert_close(estimate_prior_bbse(confusion, posterior.argmax(1)).float(), test_mix, rtol=0, atol=0.05)


def test_suites_keep_the_mixes_they_name():
    y = torch.arange(1000) % 10
    suite = fixed_suite(y, (10, 2))
    assert list(suite) == ["forward 10", "forward 2", "uniform", "backward 2", "backward 10"]
    forward, backward = (torch.bincount(y[suite[f"{way} 10"]], minlength=10) for way in ("forward", "backward"))
    assert forward.tolist() == backward.tolist()[::-1]
    assert (int(forward[0]), int(forward[-1])) == (100, 10)
    drawn = dirichlet_suite(y, 2, seed=3)
    assert len(drawn) == 6
    assert all(torch.equal(a, b) for a, b in zip(drawn.values(), dirichlet_suite(y, 2, seed=3).values(), strict=True))
    for name, rows in drawn.items():
        counts = torch.bincount(y[rows], minlength=10).double()
        assert int(counts.min()) >= 1
        slope = float((counts - counts.mean()) @ torch.arange(-4.5, 5.5, dtype=torch.float64))
        assert {"forward": slope < 0, "backward": slope > 0, "uniform": abs(slope) < 2000}[name.split()[0]]
    counts = dirichlet_test_counts(10, 100, "forward", concentration=1e7, generator=torch.Generator().manual_seed(0))
    assert counts[0] in range(90, 101)
    assert counts[-1] <= 2


def test_a_suite_is_judged_set_by_set():
    y = torch.arange(400) % 4
    pred = torch.where(y == 3, 0, y)
    suite = fixed_suite(y, (4,))
    found = suite_accuracy(pred, y, suite)
    for name, rows in suite.items():
        assert found.by_set[name] == pytest.approx(float((y[rows] != 3).double().mean()))
    values = list(found.by_set.values())
    assert found.mean == pytest.approx(sum(values) / 3)
    assert found.std == pytest.approx(math.sqrt(sum((v - found.mean) ** 2 for v in values) / 3))
    assert found.worst == min(values) == found.by_set["backward 4"]
    assert suite_accuracy({name: pred[rows] for name, rows in suite.items()}, y, suite) == found


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda z, y, t: dirmixe_loss(z, y, PRIOR * 2, t), "prior"),
        (lambda z, y, t: dirmixe_loss(z, y, PRIOR, t._replace(component=t.component + 3)), "expert from 0 to 2"),
        (lambda z, y, t: dirmixe_loss(z, y, PRIOR, t._replace(distributions=t.distributions * 2)), "sum to 1"),
        (lambda z, y, t: dirmixe_loss(z, y, PRIOR, t._replace(distributions=t.distributions * math.nan)), "positive"),
        (lambda z, y, t: dirmixe_loss(z, y, PRIOR, t, semivariance_norm="half"), "semivariance_norm"),
        (lambda z, y, t: DirMixELoss(DirichletMixture(COUNTS))(z[:2], y), "K = 3"),
        (lambda z, y, t: DirichletMixture(COUNTS, centres=("sideways",)), "centres"),
        (lambda z, y, t: DirichletMixture([3, 0]), "class 1 has 0"),
        (lambda z, y, t: DirichletMixture(COUNTS).sample(0), "trials"),
        (lambda z, y, t: diverse_expert_loss(z[:2], y, PRIOR), "expert_logits must have shape"),
        (lambda z, y, t: TestTimeAggregator(2)(z), "has 3 experts, wanted 2"),
        (lambda z, y, t: TestTimeAggregator(3).fit([]), "no batch"),
        (lambda z, y, t: estimate_prior_em(z[0], COUNTS), "probabilities must be at least 0"),
        (lambda z, y, t: estimate_prior_bbse(torch.zeros(2, 2), y % 2), "class 0 is missing"),
        (lambda z, y, t: suite_accuracy(y, y, {}), "no set"),
        (lambda z, y, t: suite_accuracy(y, y, {"far": torch.tensor([7])}), "'far' holds the sample 7"),
        (lambda z, y, t: suite_accuracy({"a": y}, y, {"b": y}), "pred lacks the sets b"),
        (lambda z, y, t: fixed_suite(torch.tensor([0, 2])), "needs a sample"),
    ],
)
def test_bad_input_is_named(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make(*_world(12))
