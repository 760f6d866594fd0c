import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import Lasso, LogisticRegression, MultiTaskLasso, Ridge

from equipoise.crowd import TFCL, MultiTaskLinear, PersonalizedTFCL, tfcl_objective

ALL = [TFCL(k=2), PersonalizedTFCL(k=1), MultiTaskLinear("robust"), MultiTaskLinear("dirty")]


def _blocks(seed=0, d=12, tasks=8, k=2, n=50, noise=1.0):
    generator = np.random.default_rng(seed)
    weight = np.kron(np.eye(k), np.ones((d // k, tasks // k))) * generator.uniform(0.8, 1.6, (d, tasks))
    x = [generator.normal(size=(n, d)) for _ in range(tasks)]
    return weight, x, [each @ w + noise * generator.normal(size=n) for each, w in zip(x, weight.T, strict=True)]


def _users(seed=0, n=60):
    """Six users of one taste, the last of the opposite one."""
    generator = np.random.default_rng(seed)
    x, user = generator.normal(size=(6 * n, 4)), np.repeat(list("abcdef"), n)
    own = np.where(user == "f", -1.0, 1.0)
    return x, (own * (x[:, 0] + x[:, 1]) + 0.3 * generator.normal(size=len(x)) > 0).astype(int), user


@pytest.mark.parametrize("alpha3", [0.0, 2.0])
@pytest.mark.parametrize("backtracking", [True, False])
def test_blocks_are_found_and_the_objective_never_rises(alpha3, backtracking):
    weight, x, y = _blocks()
    model = TFCL(k=2, alpha1=8.0, alpha3=alpha3, backtracking=backtracking, max_iter=300).fit(x, y)
    history = np.array(model.history_)
    assert (np.diff(history) <= 1e-9 * history[0]).all()
    assert model.n_iter_ == len(history) - 1
    if alpha3 == 0:
        assert ((np.abs(model.coef_) > 1e-3) == (weight != 0)).all()
        assert [each.tolist() for each in model.groups_] == [[0] * 6 + [1] * 6, [0] * 4 + [1] * 4]


@pytest.mark.parametrize("loss", ["squared", "pairwise_square", "logistic"])
def test_the_history_ends_at_the_objective_of_the_weights(loss):
    _, x, y = _blocks(n=40)
    y = y if loss == "squared" else [(each > 0).astype(float) for each in y]
    model = TFCL(k=2, alpha1=0.5, loss=loss, max_iter=5, tol=0.0)
    with pytest.warns(UserWarning, match="stopped after max_iter=5"):
        model.fit(x, y)
    found = tfcl_objective(
        [torch.from_numpy(each) for each in x],
        [torch.from_numpy(each) for each in y],
        torch.from_numpy(model.coef_),
        k=2,
        alpha1=0.5,
        alpha2=0.03,
        loss=loss,
    )
    assert model.history_[-1] == pytest.approx(float(found.objective))
    assert np.all(np.diff(model.history_) <= 1e-10)


def test_one_block_is_ridge_and_all_are_the_lasso():
    _, x, y = _blocks(n=40)
    ridge = TFCL(k=1, alpha2=0.2, tol=1e-9, max_iter=500).fit(x, y).coef_
    lasso = TFCL(k=20, alpha1=0.1, alpha2=0.0, tol=1e-9, max_iter=500).fit(x, y).coef_
    for t in range(8):
        wanted = Ridge(alpha=0.2 * 40, fit_intercept=False).fit(x[t], y[t]).coef_
        np.testing.assert_allclose(ridge[:, t], wanted, atol=1e-5)
        wanted = Lasso(alpha=0.2, fit_intercept=False, tol=1e-10).fit(x[t], y[t]).coef_
        np.testing.assert_allclose(lasso[:, t], wanted, atol=1e-5)


def test_permuting_features_and_tasks_permutes_the_fit():
    _, x, y = _blocks()
    rows, columns = np.random.default_rng(1).permutation(12), np.random.default_rng(2).permutation(8)
    plain = TFCL(k=2).fit(x, y).coef_
    moved = TFCL(k=2).fit([x[t][:, rows] for t in columns], [y[t] for t in columns]).coef_
    np.testing.assert_allclose(moved, plain[rows][:, columns], atol=1e-6)


def test_eigenvectors_part_a_graph_that_is_still_connected():
    generator = np.random.default_rng(0)
    weight = np.kron(np.eye(2), np.ones((3, 3))) + 0.02 * generator.normal(size=(6, 6))
    x = [generator.normal(size=(100, 6)) for _ in range(6)]
    y = [each @ w for each, w in zip(x, weight.T, strict=True)]
    settings = {"k": 2, "alpha1": 0.0, "alpha2": 0.0}
    assert max(TFCL(**settings).fit(x, y).groups_[0]) == 0
    features, tasks = TFCL(**settings, grouping="spectral").fit(x, y).groups_
    assert features.tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    assert tasks.tolist() == features.tolist()


def test_weights_to_begin_with_are_taken_and_a_bad_shape_is_named():
    weight, x, y = _blocks()
    assert TFCL(k=2, init=weight).fit(x, y).history_[0] < TFCL(k=2).fit(x, y).history_[0] * 1.5
    with pytest.raises(ValueError, match=r"init must have shape \(12, 8\), features and tasks, got \(8, 12\)"):
        TFCL(k=2, init=weight.T).fit(x, y)


def test_a_hard_user_has_a_part_of_their_own():
    x, y, user = _users()
    model = PersonalizedTFCL(k=1, lambda_personal=0.3, tol=1e-4).fit(x, y, user)
    assert model.hard_users_ == ["f"]
    np.testing.assert_allclose(model.coef_, model.theta_[:, None] + model.grouped_ + model.personal_)
    assert (model.personal_[:, :5] == 0).all()
    history = np.array(model.history_)
    assert (np.diff(history) <= 1e-10).all()
    scores = model.predict(x, user)
    for name in "af":
        rows = user == name
        pos, neg = scores[rows][y[rows] == 1], scores[rows][y[rows] == 0]
        assert (pos[:, None] > neg).mean() > 0.95


def test_the_objective_of_the_three_parts_is_theirs():
    x, y, user = _users(n=20)
    model = PersonalizedTFCL(k=2, loss="squared", lambda_assignment=0.4, tol=0.0, max_iter=3)
    with pytest.warns(UserWarning, match="stopped"):
        model.fit(x, y, user)
    from equipoise.crowd import spectral_assignment

    found = spectral_assignment(torch.from_numpy(model.grouped_), 2, model.lambda_group, 0.4)
    data = sum(
        ((x[user == u] @ w - y[user == u]) ** 2).mean() / 2 for u, w in zip("abcdef", model.coef_.T, strict=True)
    )
    wanted = (
        data
        + model.lambda_theta / 2 * (model.theta_**2).sum()
        + model.lambda_group * float(found.penalty)
        + 0.2 * float(found.U.square().sum())
        + model.lambda_ridge / 2 * (model.grouped_**2).sum()
        + model.lambda_personal * np.linalg.norm(model.personal_, axis=0).sum()
    )
    assert model.history_[-1] == pytest.approx(wanted)


def test_the_baselines_of_single_tasks_and_of_joint_features_are_those_of_scikit_learn():
    _, x, y = _blocks(n=40)
    found = {name: MultiTaskLinear(name, 0.1, tol=1e-13).fit(x, y).coef_ for name in ("ridge", "lasso")}
    for t in range(8):
        wanted = Ridge(alpha=4.0, fit_intercept=False).fit(x[t], y[t]).coef_
        np.testing.assert_allclose(found["ridge"][:, t], wanted, atol=1e-4)
        wanted = Lasso(alpha=0.1, fit_intercept=False, tol=1e-10).fit(x[t], y[t]).coef_
        np.testing.assert_allclose(found["lasso"][:, t], wanted, atol=1e-4)
    shared = np.stack(y, 1)
    wanted = MultiTaskLasso(alpha=0.1, fit_intercept=False, tol=1e-10).fit(x[0], shared).coef_.T
    joint = MultiTaskLinear("l21", 0.1, tol=1e-13).fit([x[0]] * 8, list(shared.T)).coef_
    np.testing.assert_allclose(joint, wanted, atol=1e-4)


def test_the_logistic_baseline_is_that_of_scikit_learn():
    x, y, user = _users(n=30)
    found = MultiTaskLinear("ridge", 0.1, loss="logistic", tol=1e-13).fit(x, y, user).coef_
    rows = user == "a"
    wanted = LogisticRegression(C=1 / (0.1 * 30), fit_intercept=False, tol=1e-10).fit(x[rows], y[rows]).coef_[0]
    np.testing.assert_allclose(found[:, 0], wanted, atol=1e-4)


@pytest.mark.parametrize("penalty", ["trace", "robust", "dirty", "l21", "lasso", "ridge"])
def test_no_move_from_a_fit_lowers_the_objective(penalty):
    _, x, y = _blocks(n=30)
    model = MultiTaskLinear(penalty, 0.2, 0.15, tol=1e-13, max_iter=20000).fit(x, y)

    def cost(shared, own):
        data = sum(((a @ w - b) ** 2).mean() / 2 for a, b, w in zip(x, y, (shared + own).T, strict=True))
        norms = {
            "trace": lambda w: np.linalg.svd(w)[1].sum(),
            "robust": lambda w: np.linalg.svd(w)[1].sum(),
            "dirty": lambda w: np.abs(w).max(1).sum(),
            "l21": lambda w: np.linalg.norm(w, axis=1).sum(),
            "lasso": lambda w: np.abs(w).sum(),
            "ridge": lambda w: (w**2).sum() / 2,
        }
        second = {"robust": lambda w: np.linalg.norm(w, axis=0).sum(), "dirty": lambda w: np.abs(w).sum()}
        return data + 0.2 * norms[penalty](shared) + 0.15 * second.get(penalty, lambda w: 0.0)(own)

    best = cost(model.shared_, model.own_)
    assert best == pytest.approx(model.history_[-1])
    generator = np.random.default_rng(0)
    for scale in (1e-3, 1e-2, 0.1):
        for _ in range(20):
            moves = [scale * generator.normal(size=(12, 8)) * (generator.random((12, 8)) < 0.3) for _ in range(2)]
            second = moves[1] if penalty in ("robust", "dirty") else 0.0
            assert cost(model.shared_ + moves[0], model.own_ + second) >= best - 1e-8


@pytest.mark.parametrize("model", ALL, ids=lambda model: f"{type(model).__name__}-{getattr(model, 'penalty', '')}")
def test_a_clone_and_a_saved_model_go_on_alike(model, tmp_path):
    x, y, user = _users(n=20)
    fitted = clone(model).set_params(tol=1e-3).fit(x, y, user)
    fitted.save(tmp_path / "model.safetensors")
    loaded = type(model).load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.predict(x, user), fitted.predict(x, user))
    assert repr(loaded) == repr(fitted)
    assert loaded.tasks_ == list("abcdef")
    if hasattr(fitted, "groups_"):
        assert all((a == b).all() for a, b in zip(loaded.groups_, fitted.groups_, strict=True))
    other = MultiTaskLinear if isinstance(model, TFCL) else TFCL
    with pytest.raises(ValueError, match=f"does not hold a {other.__name__}"):
        other.load(tmp_path / "model.safetensors")


def test_both_ways_to_give_data_are_one_and_predictions_are_by_task():
    _, x, y = _blocks(n=20)
    lists = TFCL(k=2).fit(x, y)
    task = np.repeat(np.arange(8), 20)
    table = TFCL(k=2).fit(np.concatenate(x), np.concatenate(y), task)
    np.testing.assert_allclose(lists.coef_, table.coef_)
    np.testing.assert_allclose(np.concatenate(lists.predict(x)), table.predict(np.concatenate(x), task))
    np.testing.assert_allclose(lists.predict(x[3], 3), x[3] @ lists.coef_[:, 3])
    with pytest.raises(KeyError, match="task 9 was not fitted"):
        lists.predict(x[0], 9)
    with pytest.raises(ValueError, match="X must have 12 columns"):
        lists.predict(x[0][:, :3], 3)
    with pytest.raises(RuntimeError, match="not fitted"):
        TFCL().predict(x)


def test_features_that_are_zero_everywhere_are_told():
    _, x, y = _blocks(n=20)
    x = [np.column_stack([each, np.zeros(20)]) for each in x]
    with pytest.warns(UserWarning, match="1 of 13 features are 0 in every row"):
        TFCL(k=2).fit(x, y)


def test_a_curvature_that_is_too_small_is_told_without_backtracking():
    _, x, y = _blocks(n=20)
    with pytest.warns(UserWarning, match="below the curvature"):
        TFCL(k=2, lipschitz=2.0, backtracking=False, max_iter=500).fit(x, y)


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({"k": 0}, {}, "k=0"),
        ({"k": 21}, {}, "k=21 must be at most 20"),
        ({"k": 1.5}, {}, "k=1.5"),
        ({"alpha1": -1.0}, {}, "alpha1"),
        ({"loss": "hinge"}, {}, "loss='hinge'"),
        ({"init": "zero"}, {}, "init='zero'"),
        ({"loss": "pairwise_square"}, {}, "y must hold 0 and 1"),
        ({"grouping": "trees"}, {}, "grouping"),
        ({}, {"X": [np.ones((3, 2)), np.ones((3, 3))], "y": [np.ones(3)] * 2}, "task 1 has 3 columns"),
        ({}, {"X": [np.ones((3, 2)), np.ones((0, 2))], "y": [np.ones(3), np.ones(0)]}, "task 1 is empty"),
        ({}, {"X": [np.full((3, 2), np.nan)], "y": [np.ones(3)]}, "X holds"),
        ({}, {"X": [np.ones((3, 2))], "y": [np.ones(4)]}, "task 0 has X"),
        ({}, {"X": np.ones((3, 2)), "y": np.ones(3), "task": [1, 2]}, "X, y and task"),
        ({}, {"X": [["a", "b"]], "y": [[1]]}, "X must hold numbers"),
    ],
)
def test_bad_input_is_named(settings, data, message, plain_inputs):
    _, x, y = _blocks()
    with pytest.raises(ValueError, match=message):
        TFCL(**settings).fit(**{"X": x, "y": y, **data})
