"""The linear model of multiclass AUC against minima found without its solver."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from equipoise.ranking import LinearMulticlassAUC

pytestmark = [
    pytest.mark.filterwarnings("ignore:LinearMulticlassAUC stopped"),
    pytest.mark.usefixtures("plain_inputs"),  # thousands of evaluations, each of which would be checked
]


def _world(seed=0, counts=(9, 30, 60), d=4):
    generator = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(counts)), counts)
    x = generator.normal(size=(len(y), d)) + 1.5 * np.eye(len(counts), d)[y]
    order = generator.permutation(len(y))
    return x[order], y[order]


def _objective(w, x, y, penalty, surrogate, activation, average="ovo"):
    """Every pair of samples of every pair of classes, of plain tensors."""
    scores = torch.from_numpy(x) @ w
    scores = scores.softmax(1) if activation == "softmax" else scores
    total = penalty * w.square().sum()
    classes = range(w.shape[1])
    for i in classes:
        for others in [[j] for j in classes if j != i] if average == "ovo" else [[j for j in classes if j != i]]:
            pos, neg = scores[y == i, i], scores[np.isin(y, others), i]
            t = pos[:, None] - neg
            total = total + (surrogate(t)).mean()
    return total


SURROGATES = {
    "square": lambda t: (0.7 - t) ** 2,
    "squared_hinge": lambda t: (0.7 - t).clamp_min(0) ** 2,
    "exponential": lambda t: (-0.7 * t).exp(),
    "logistic": lambda t: (-0.7 * t).exp().log1p(),
}


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("activation", ["softmax", "none"])
def test_it_ends_where_another_solver_ends_and_never_rises(surrogate, activation):
    x, y = _world()
    model = LinearMulticlassAUC(0.01, surrogate, 0.7, activation=activation, tol=1e-7, max_iter=200).fit(x, y)
    assert all(later <= earlier for earlier, later in itertools.pairwise(model.objective_history_))

    def value_and_gradient(flat):
        w = torch.tensor(flat.reshape(4, 3), requires_grad=True)
        value = _objective(w, x, y, 0.01, SURROGATES[surrogate], activation)
        value.backward()
        return value.item(), w.grad.numpy().ravel()

    value, gradient = value_and_gradient(model.coef_.copy())
    assert model.objective_history_[-1] == pytest.approx(value, rel=1e-10)
    assert model.objective_history_[0] == pytest.approx(value_and_gradient(np.zeros(12))[0], rel=1e-10)
    assert np.abs(gradient).max() < 1e-2
    wanted = minimize(value_and_gradient, np.zeros(12), jac=True, method="L-BFGS-B", options={"ftol": 1e-15})
    assert value == pytest.approx(wanted.fun, abs=1e-4)


def test_linear_scores_and_the_square_have_the_solution_of_their_normal_equations():
    x, y = _world()
    model = LinearMulticlassAUC(0.02, activation="none", tol=1e-12, max_iter=200).fit(x, y)
    for i in range(3):
        form, pull = 0.02 * np.eye(4), np.zeros(4)
        for j in {0, 1, 2} - {i}:
            apart = (x[y == i][:, None] - x[y == j][None]).reshape(-1, 4)
            form += apart.T @ apart / len(apart)
            pull += apart.mean(0)
        np.testing.assert_allclose(model.coef_[:, i], np.linalg.solve(form, pull), atol=1e-5)


def test_one_against_the_rest_is_another_objective():
    x, y = _world()
    model = LinearMulticlassAUC(0.01, margin=0.7, average="ovr", tol=1e-7).fit(x, y)
    value = _objective(torch.from_numpy(model.coef_), x, y, 0.01, SURROGATES["square"], "softmax", "ovr")
    assert model.objective_history_[-1] == pytest.approx(value.item(), rel=1e-10)


def test_the_score_is_the_auroc_of_pairs_of_classes():
    x, y = _world()
    model = LinearMulticlassAUC(max_iter=60).fit(x, y)
    wanted = roc_auc_score(y, model.decision_function(x), multi_class="ovo", average="macro")
    assert model.score(x, y) == pytest.approx(wanted)
    assert wanted > 0.9
    np.testing.assert_allclose(model.decision_function(x).sum(1), 1)


def test_labels_of_any_kind_and_any_order_of_rows_give_one_model():
    x, y = _world()
    names = np.array(["b", "c", "d"])[y]
    model, other = (LinearMulticlassAUC(max_iter=30).fit(*rows) for rows in ((x, y), (x[::-1], names[::-1])))
    np.testing.assert_allclose(model.coef_, other.coef_, rtol=1e-8, atol=1e-10)
    assert list(other.classes_) == ["b", "c", "d"]
    assert other.score(x, names) == pytest.approx(model.score(x, y))


def test_a_weight_of_two_is_a_sample_given_twice():
    x, y = _world()
    times = np.arange(len(y)) % 3
    weighted = LinearMulticlassAUC(max_iter=30).fit(x, y, times.astype(float))
    given = LinearMulticlassAUC(max_iter=30).fit(np.repeat(x, times, 0), np.repeat(y, times))
    np.testing.assert_allclose(weighted.coef_, given.coef_, rtol=1e-5, atol=1e-6)


def test_a_dear_penalty_shrinks_and_two_classes_are_enough():
    x, y = _world(counts=(10, 40))
    cheap, dear = (LinearMulticlassAUC(penalty, max_iter=60).fit(x, y) for penalty in (1e-3, 1e3))
    assert cheap.coef_.shape == (4, 2)
    assert cheap.score(x, y) > 0.85
    assert np.abs(dear.coef_).max() < 1e-2 < np.abs(cheap.coef_).max()


def test_it_is_cloned_like_an_estimator_of_scikit_learn_and_leaves_what_it_is_given():
    x, y = _world()
    kept, state = x.copy(), torch.random.get_rng_state()
    model = LinearMulticlassAUC(penalty=0.5, surrogate="hinge", max_iter=20)
    twin = clone(model)
    assert twin.get_params() == model.get_params()
    assert "penalty=0.5" in repr(twin)
    np.testing.assert_array_equal(model.fit(x, y).coef_, twin.fit(x, y).coef_)
    np.testing.assert_array_equal(x, kept)
    assert torch.random.get_rng_state().equal(state)


def test_a_fit_that_stops_before_the_objective_settles_says_so():
    with pytest.warns(UserWarning, match="stopped after max_iter=3 steps"):
        LinearMulticlassAUC(max_iter=3).fit(*_world())


X, Y = _world(counts=(5, 5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearMulticlassAUC().fit(X, Y[:-1]), r"X and y must have shapes \(n, d\) and \(n,\)"),
        (lambda: LinearMulticlassAUC().fit(np.where(X > 1, np.nan, X), Y), "X holds"),
        (lambda: LinearMulticlassAUC().fit(X[:0], Y[:0]), "X must have shape"),
        (lambda: LinearMulticlassAUC().fit(X, np.zeros(10)), "y holds 1 class"),
        (lambda: LinearMulticlassAUC(penalty=-1.0).fit(X, Y), "penalty=-1"),
        (lambda: LinearMulticlassAUC(surrogate="squared").fit(X, Y), "surrogate='squared'"),
        (lambda: LinearMulticlassAUC(margin=-1.0).fit(X, Y), "margin=-1"),
        (lambda: LinearMulticlassAUC(average="ova").fit(X, Y), "average='ova'"),
        (lambda: LinearMulticlassAUC(activation="relu").fit(X, Y), "activation='relu'"),
        (lambda: LinearMulticlassAUC(step=0.0).fit(X, Y), "step=0"),
        (lambda: LinearMulticlassAUC(max_iter=1.5).fit(X, Y), "max_iter=1.5"),
        (lambda: LinearMulticlassAUC(tol=-1.0).fit(X, Y), "tol=-1"),
        (lambda: LinearMulticlassAUC().fit(X, Y, np.ones(3)), "sample_weight"),
        (lambda: LinearMulticlassAUC().fit(X, Y, -np.ones(10)), "sample_weight"),
        (lambda: LinearMulticlassAUC(max_iter=2).fit(X, Y).decision_function(X[:, :2]), "X must have shape"),
        (lambda: LinearMulticlassAUC(max_iter=2).fit(X, Y).score(X, Y + 5), "y holds 5, which was not fitted"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numpy_settings_are_taken():
    settings = {"penalty": 0.01, "margin": 0.5, "max_iter": 50, "tol": 1e-4}
    numpy = {name: np.asarray(value)[()] for name, value in settings.items()}
    wanted = LinearMulticlassAUC(**settings).fit(X, Y).coef_
    np.testing.assert_array_equal(LinearMulticlassAUC(**numpy).fit(X, Y).coef_, wanted)
