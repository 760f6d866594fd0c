import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone

from equipoise.core.pairs.quadratic import auc_quadratic_form
from equipoise.ranking import MultiTaskAUC, MultiTaskAUCLoss, auroc, multitask_auc_loss, pairwise_auc_loss
from equipoise.ranking.multitask.estimator import _UserLosses, multitask_auc_step
from equipoise.ranking.multitask.multitask_auc import multitask_auc_objective

# Where it is not the point, a fit may stop early.
pytestmark = pytest.mark.filterwarnings("ignore:MultiTaskAUC stopped")

STRENGTHS = {"lambda_theta": 0.3, "lambda_group": 0.7, "lambda_personal": 0.2, "kappa": 1}


def _half_square(scores, target):
    return pairwise_auc_loss(scores, target, surrogate="square") / 2


def _world(seed=0, users=6, per_user=30, d=5):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(users * per_user, d))
    user = np.repeat([f"u{k}" for k in range(users)], per_user)
    weights = generator.normal(size=(users, d))
    y = (x * np.repeat(weights, per_user, axis=0)).sum(1) > 0.8
    order = generator.permutation(len(x))
    return x[order], y[order].astype(int), user[order]


@given(seed=st.integers(0, 1000))
def test_the_quadratic_form_is_the_loss_of_all_pairs(seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(17, 4, generator=generator, dtype=torch.float64)
    y = (torch.randperm(17, generator=generator) < 1 + seed % 15).long()
    w = torch.randn(4, generator=generator, dtype=torch.float64)
    form = auc_quadratic_form(x, y)
    wanted = _half_square(x @ w, y)
    torch.testing.assert_close(w @ form.A @ w / 2 - form.c @ w + 0.5, wanted, rtol=1e-10, atol=1e-10)


@given(seed=st.integers(0, 1000))
def test_the_deep_loss_is_the_mean_of_every_users_pairs(seed):
    generator = torch.Generator().manual_seed(seed)
    user = torch.randint(0, 5, (40,), generator=generator) * 1_000_000 - 7
    target = (torch.rand(40, generator=generator) < 0.3).long()
    scores = torch.randn(40, generator=generator, dtype=torch.float64, requires_grad=True)
    losses = [
        _half_square(scores[user == u], target[user == u])
        for u in user.unique()
        if 0 < target[user == u].sum() < (user == u).sum()
    ]
    for reduction, wanted in (("mean", torch.stack(losses).mean()), ("sum", torch.stack(losses).sum())):
        found = multitask_auc_loss(scores, target, user, reduction=reduction)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        gradients = [torch.autograd.grad(v, scores, retain_graph=True)[0] for v in (found, wanted)]
        torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_scores_of_every_precision_and_far_from_zero_keep_their_digits(dtype):
    user, target = torch.arange(60) % 3, (torch.arange(60) < 20).long()
    scores = (torch.randn(60, generator=torch.Generator().manual_seed(0)) + 100.0).to(dtype).requires_grad_()
    value = multitask_auc_loss(scores, target, user)
    value.backward()
    wanted = multitask_auc_loss(scores.detach().double(), target, user)
    assert scores.grad.dtype == dtype
    assert value.dtype == torch.promote_types(dtype, torch.float32)
    assert value.item() == pytest.approx(wanted.item(), rel=1e-3 if dtype == torch.float16 else 1e-6)
    (again,) = torch.autograd.grad(multitask_auc_loss(scores, target, user), scores, create_graph=True)
    with pytest.raises(RuntimeError, match="first-order gradients only"):
        again.sum().backward()


def test_what_all_scores_have_in_common_costs_float64_no_digit():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-3000, 3000, (40,), generator=generator, dtype=torch.float64) / 1024
    target, user = (torch.arange(40) % 3 == 0).long(), torch.arange(40) // 10
    values = [gradients(s, target, user) for s in (scores, scores + 2.0**40)]
    torch.testing.assert_close(values[1], values[0], rtol=1e-12, atol=1e-14)


def gradients(scores, target, user):
    leaf = scores.clone().requires_grad_()
    value = multitask_auc_loss(leaf, target, user)
    return value.detach(), *torch.autograd.grad(value, leaf)


def test_both_ways_to_the_gradient_agree_with_autograd():
    x, y, user = _world(per_user=9)
    y[user == "u2"] = 1
    owner = torch.from_numpy(np.unique(user, return_inverse=True)[1])
    features, target = torch.from_numpy(x), torch.from_numpy(y)
    point = tuple(torch.randn(s, generator=torch.Generator().manual_seed(1)).double() for s in ((5,), (5, 6), (5, 6)))
    variables = [p.clone().requires_grad_() for p in point]
    loss = multitask_auc_objective(
        [features[owner == u] for u in range(6) if u != 2],
        [target[owner == u] for u in range(6) if u != 2],
        variables[0],
        *(v[:, [u for u in range(6) if u != 2]] for v in variables[1:]),
        **STRENGTHS,
    ).loss
    wanted = torch.autograd.grad(loss, variables)
    direct = _UserLosses(features, target, owner, 6)
    passes = _UserLosses(features, target, owner, 6)
    assert direct.forms is not None
    passes.forms = None
    for losses in (direct, passes):
        value, gradient = losses.of_point(point)
        assert value == pytest.approx(loss.item(), rel=1e-12)
        for got, want in zip(gradient, wanted, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    top = max(float(torch.linalg.eigvalsh(form)[-1]) for form in direct.forms)
    assert direct.curvature() == pytest.approx(top)
    assert passes.curvature() >= top


def test_a_pair_weighs_the_product_of_its_rows_weights_both_ways():
    x, y, user = _world(users=3, per_user=9)
    y[user == "u2"] = 1
    owner = torch.from_numpy(np.unique(user, return_inverse=True)[1])
    features, target = torch.from_numpy(x), torch.from_numpy(y)
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    point = tuple(torch.randn(s, generator=torch.Generator().manual_seed(1)).double() for s in ((5,), (5, 3), (5, 3)))
    variables = [p.clone().requires_grad_() for p in point]
    columns = variables[0][:, None] + variables[1] + variables[2]
    wanted = torch.zeros((), dtype=torch.float64)
    for u in range(2):
        pairs = list(itertools.product(*(((owner == u) & (target == side)).nonzero().flatten() for side in (1, 0))))
        total = sum(weight[p] * weight[q] for p, q in pairs)
        for p, q in pairs:
            difference = (features[p] - features[q]) @ columns[:, u]
            wanted = wanted + weight[p] * weight[q] / total * (1 - difference) ** 2 / 2
    slopes = torch.autograd.grad(wanted, variables)
    direct, passes = (_UserLosses(features, target, owner, 3, weight) for _ in range(2))
    assert direct.forms is not None
    passes.forms = None
    for losses in (direct, passes):
        value, gradient = losses.of_point(point)
        assert value == pytest.approx(wanted.item(), rel=1e-12)
        for got, want in zip(gradient, slopes, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    assert passes.curvature() >= direct.curvature()


# Steps are shorter where there are no forms, which the number of rows decides: here both have some, or none.
@pytest.mark.parametrize(("per_user", "d"), [(8, 40), (40, 5)])
def test_a_weight_of_two_is_a_row_given_twice_and_without_weight_a_row_is_not_there(per_user, d):
    x, y, user = _world(users=4, per_user=per_user, d=d)
    for seed in range(3):
        times = np.random.default_rng(seed).integers(0, 4, len(x))
        times[user == "u3"] *= seed > 0
        settings = {
            "kappa": 1,
            "lambda_theta": 0.1,
            "lambda_group": 0.5,
            "lipschitz": "auto",
            "max_iter": 200,
            "tol": 0,
        }
        weighed = MultiTaskAUC(**settings).fit(x, y, user, sample_weight=times)
        repeated = MultiTaskAUC(**settings).fit(*(part.repeat(times, axis=0) for part in (x, y, user)))
        assert weighed.users_ == repeated.users_
        assert weighed.skipped_users_ == repeated.skipped_users_
        np.testing.assert_allclose(weighed.W_, repeated.W_, atol=1e-6)
        assert np.abs(weighed.theta_ - MultiTaskAUC(**settings).fit(x, y, user).theta_).max() > 1e-3


def test_weights_that_are_all_alike_change_nothing():
    x, y, user = _world()
    wanted = MultiTaskAUC(kappa=1).fit(x, y, user)
    found = MultiTaskAUC(kappa=1).fit(x, y, user, sample_weight=np.full(len(x), 0.25))
    np.testing.assert_allclose(found.W_, wanted.W_, atol=1e-6)


def test_a_user_with_one_class_adds_no_loss_to_the_objective():
    x, y, user = _world(users=3)
    sides = [(torch.from_numpy(x[user == u]), torch.from_numpy(y[user == u])) for u in ("u0", "u1", "u2")]
    sides[1] = (sides[1][0], torch.ones_like(sides[1][1]))
    point = [torch.ones(s, dtype=torch.float64) for s in ((5,), (5, 3), (5, 3))]
    features, targets = ([side[k] for side in sides] for k in (0, 1))
    found = multitask_auc_objective(features, targets, *point, **STRENGTHS)
    rest = [point[0], *(p[:, [0, 2]] for p in point[1:])]
    kept = multitask_auc_objective([features[0], features[2]], [targets[0], targets[2]], *rest, **STRENGTHS)
    torch.testing.assert_close(found.loss, kept.loss)
    assert found.penalty > kept.penalty
    nobody = multitask_auc_objective(
        features[1:2], targets[1:2], point[0], *(p[:, 1:2] for p in point[1:]), **STRENGTHS
    )
    assert nobody.loss == 0


def test_many_features_and_few_labels_take_no_forms():
    x, y, user = _world(users=4, per_user=8, d=40)
    owner = torch.from_numpy(np.unique(user, return_inverse=True)[1])
    assert _UserLosses(torch.from_numpy(x), torch.from_numpy(y), owner, 4).forms is None
    model = MultiTaskAUC(kappa=2, max_iter=2000).fit(x, y, user)
    assert model.score(x, y, user) > 0.95


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("lipschitz", ["auto", "backtracking"])
@given(seed=st.integers(0, 50))
def test_the_objective_never_rises_although_a_penalty_is_not_convex(accelerate, lipschitz, seed):
    x, y, user = _world(seed)
    model = MultiTaskAUC(kappa=2, tol=0.0, max_iter=40, accelerate=accelerate, lipschitz=lipschitz)
    history = model.fit(x, y, user).objective_history_
    assert all(later <= earlier + 1e-10 for earlier, later in itertools.pairwise(history))
    assert history[-1] < 0.97 * history[0]


def test_the_end_is_a_fixed_point_of_a_step_and_has_the_objective_it_reports():
    x, y, user = _world()
    settings = {"lambda_theta": 0.3, "lambda_group": 0.5, "lambda_personal": 0.2, "kappa": 1}
    model = MultiTaskAUC(**settings, max_iter=4000, tol=1e-14, accelerate=True).fit(x, y, user)
    sides = [(torch.from_numpy(x[user == u]), torch.from_numpy(y[user == u])) for u in model.users_]
    point = tuple(map(torch.from_numpy, (model.theta_, model.G_, model.P_)))
    features, targets = ([side[k] for side in sides] for k in (0, 1))
    after = multitask_auc_step(features, targets, *point, lipschitz=50.0, **settings)
    for got, want in zip(after, point, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    objective = multitask_auc_objective(features, targets, *point, **settings).objective.item()
    assert model.objective_history_[-1] == pytest.approx(objective, rel=1e-9)


def test_users_with_one_class_keep_what_all_share_and_are_named():
    x, y, user = _world()
    y[user == "u3"] = 0
    model = MultiTaskAUC(kappa=1).fit(x, y, user)
    assert model.skipped_users_ == ["u3"]
    k = model.users_.index("u3")
    assert np.abs(model.P_[:, k]).max() == 0
    assert np.abs(model.G_[:, k]).max() < 1e-12
    np.testing.assert_allclose(model.W_[:, k], model.theta_, atol=1e-12)


def test_unknown_users_are_ranked_by_the_shared_part_if_asked_for():
    x, y, user = _world()
    model = MultiTaskAUC(kappa=1).fit(x, y, user)
    with pytest.raises(KeyError, match="'new' was not fitted; cold_start=True"):
        model.decision_function(x[:2], ["new", "u1"])
    scores = model.decision_function(x[:2], ["new", "u1"], cold_start=True)
    assert scores[0] == pytest.approx(x[0] @ model.theta_)
    assert scores[1] == pytest.approx(x[1] @ model.W_[:, model.users_.index("u1")])


def test_the_score_is_the_mean_of_the_users_auroc():
    x, y, user = _world()
    y[user == "u0"] = 1
    model = MultiTaskAUC(kappa=1).fit(x, y, user)
    scores = torch.from_numpy(model.decision_function(x, user))
    each = [float(auroc(scores[user == u], torch.from_numpy(y[user == u]))) for u in model.users_ if u != "u0"]
    assert model.score(x, y, user) == pytest.approx(sum(each) / len(each))
    assert math.isnan(model.score(x[:1], y[:1], user[:1]))


def test_labels_of_every_kind_and_any_order_of_rows_give_one_model():
    x, y, user = _world()
    base = MultiTaskAUC(kappa=1).fit(x, y, user)
    for labels in (y.astype(bool), 2 * y - 1, y.astype(float)):
        np.testing.assert_allclose(MultiTaskAUC(kappa=1).fit(x, labels, user).W_, base.W_)
    order = np.random.default_rng(3).permutation(len(x))
    mixed = MultiTaskAUC(kappa=1).fit(x[order], y[order], user[order])
    columns = [mixed.users_.index(u) for u in base.users_]
    np.testing.assert_allclose(mixed.W_[:, columns], base.W_, atol=1e-8)


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("unit", [2.0**-20, 2.0**20])
def test_the_unit_of_the_features_does_not_matter(unit, accelerate):
    x, y, user = _world()
    plain = MultiTaskAUC(0.3, 0.7, 0.2, 1, accelerate=accelerate, max_iter=50).fit(x, y, user)
    # The same problem in other units: weights are divided by it, so that prices go with its powers.
    strengths = (0.3 * unit**2, 0.7 * unit**2, 0.2 * unit, 1)
    scaled = MultiTaskAUC(*strengths, accelerate=accelerate, max_iter=50).fit(unit * x, y, user)
    np.testing.assert_allclose(scaled.objective_history_, plain.objective_history_, rtol=1e-9)
    np.testing.assert_allclose(unit * scaled.W_, plain.W_, rtol=1e-6, atol=1e-9)


def test_adding_a_constant_to_a_feature_changes_no_ranking():
    x, y, user = _world()
    base = MultiTaskAUC(kappa=1).fit(x, y, user)
    np.testing.assert_allclose(MultiTaskAUC(kappa=1).fit(x + 100.0, y, user).W_, base.W_, atol=1e-6)


def test_the_penalties_do_what_they_are_for():
    x, y, user = _world(users=8, per_user=60)
    no_person = MultiTaskAUC(lambda_personal=1e3, kappa=1).fit(x, y, user)
    assert np.abs(no_person.P_).max() == 0
    low_rank = MultiTaskAUC(lambda_personal=1e3, lambda_group=1e6, kappa=2, lipschitz="backtracking").fit(x, y, user)
    sigma = np.linalg.svd(low_rank.G_, compute_uv=False)
    assert sigma[1] > 1e-3
    assert sigma[2:].max() < 1e-4
    assert np.abs(MultiTaskAUC(lambda_theta=1e6).fit(x, y, user).theta_).max() < 1e-3


def test_a_warm_start_goes_on_from_the_last_fit():
    x, y, user = _world()
    model = MultiTaskAUC(kappa=1, tol=1e-9, max_iter=2000).fit(x, y, user)
    cold = model.n_iter_
    again = model.set_params(warm_start=True).fit(x, y, user)
    assert again.n_iter_ < cold / 4


def test_it_is_cloned_like_an_estimator_of_scikit_learn():
    model = MultiTaskAUC(kappa=2, lambda_group=3.0)
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert "kappa=2" in repr(twin)
    with pytest.raises(ValueError, match="no setting 'gamma'"):
        model.set_params(gamma=1)


def test_a_fit_that_stops_before_the_objective_settles_says_so():
    with pytest.warns(UserWarning, match="stopped after max_iter=3 steps"):
        MultiTaskAUC(kappa=1, max_iter=3).fit(*_world())


def test_kappa_that_frees_everything_is_warned_of():
    x, y, user = _world()
    with pytest.warns(UserWarning, match="lambda_group has no effect"):
        MultiTaskAUC(kappa=5).fit(x, y, user)


def test_a_batch_where_nobody_has_both_classes_gives_zero_that_stays_attached():
    scores = torch.randn(3, requires_grad=True)
    with pytest.warns(UserWarning, match="no user of the batch"):
        value = MultiTaskAUCLoss()(scores, torch.tensor([1, 0, 0]), torch.tensor([0, 1, 2]))
    value.backward()
    assert value == 0
    assert scores.grad.eq(0).all()


X, Y, U = _world(users=2, per_user=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiTaskAUC().fit(X, Y[:-1], U), r"must have shapes \(n, d\), \(n,\) and \(n,\)"),
        (lambda: MultiTaskAUC().fit(np.where(X > 1, np.nan, X), Y, U), "X holds"),
        (lambda: MultiTaskAUC().fit(X, Y + 1, U), "y must hold 0 and 1"),
        (lambda: MultiTaskAUC().fit(X, np.zeros(8), U), "no user has both classes"),
        (lambda: MultiTaskAUC().fit(X, Y, U, np.ones(7)), r"sample_weight must have shape \(8,\), got \(7,\)"),
        (lambda: MultiTaskAUC().fit(X, Y, U, -np.ones(8)), "sample_weight must be at least 0, got -1"),
        (lambda: MultiTaskAUC().fit(X, Y, U, np.full(8, np.nan)), "sample_weight holds"),
        (lambda: MultiTaskAUC().fit(X, Y, U, np.zeros(8)), "sample_weight is zero for every row"),
        (lambda: MultiTaskAUC(lambda_group=-1.0).fit(X, Y, U), "lambda_group=-1"),
        (lambda: MultiTaskAUC(kappa=-1).fit(X, Y, U), "kappa=-1"),
        (lambda: MultiTaskAUC(kappa=1.5).fit(X, Y, U), "kappa=1.5"),
        (lambda: MultiTaskAUC(lipschitz="guess").fit(X, Y, U), "lipschitz='guess'"),
        (lambda: MultiTaskAUC(kappa=1).fit(X, Y, U).decision_function(X[:, :2], U), "X must have shape"),
        (lambda: auc_quadratic_form(torch.ones(2, 1), torch.tensor([1, 1])), "one class only"),
    ],
)
def test_bad_input_is_named(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()


def test_arrays_read_backwards_and_numpy_settings_are_taken(plain_inputs):
    generator = np.random.default_rng(0)
    x, user = generator.normal(size=(40, 3)), np.arange(40) % 2
    y = (x[:, 0] > 0).astype(int)
    settings = {"kappa": 1, "lambda_theta": 0.5, "max_iter": 50, "tol": 1e-3}
    wanted = MultiTaskAUC(**settings).fit(x, y, user)
    turned = [part[::-1].copy()[::-1] for part in (x, y, user)]
    numpy = {name: np.asarray(value)[()] for name, value in settings.items()}
    np.testing.assert_array_equal(MultiTaskAUC(**numpy).fit(*turned).W_, wanted.W_)
    assert wanted.score(*turned) == wanted.score(x, y, user)


def test_no_rows_and_fractions_of_groups_are_refused(plain_inputs):
    with pytest.raises(ValueError, match="X is empty"):
        MultiTaskAUC().fit(np.zeros((0, 3)), np.zeros(0), [])
    with pytest.raises(ValueError, match=r"kappa=1.5 must be a whole number"):
        MultiTaskAUC(kappa=1.5).fit(np.eye(2), [0, 1], ["a", "a"])
