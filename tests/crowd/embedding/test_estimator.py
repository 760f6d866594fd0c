import numpy as np
import pytest
import torch
from sklearn.base import clone

from equipoise.crowd import OrdinalEmbedding, procrustes_alignment, triplet_loss
from equipoise.crowd.embedding.factored import PointsObjective, points_of_gram
from equipoise.crowd.embedding.margins import AnswerMap, as_answers

# What answers without errors let each method reach: share of new answers kept, and distance to the true places.
REACHED = {
    "distributional": (0.85, 0.45),
    "gnmds": (0.97, 0.05),
    "ckl": (0.9, 0.2),
    "ste": (0.97, 0.05),
    "tste": (0.9, 0.2),
    "soe": (0.97, 0.05),
}
METHODS = tuple(REACHED)


def _world(n=20, m=1500, seed=0, dim=2, noise=0.0):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, dim))
    rows = np.array([generator.permutation(n)[:3] for _ in range(m)])
    near, far = (((x[rows[:, 0]] - x[rows[:, k]]) ** 2).sum(1) for k in (1, 2))
    flip = (near > far) ^ (generator.random(m) < noise)
    return x, np.where(flip[:, None], rows[:, [0, 2, 1]], rows)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("init", ["spectral", "random"])
def test_places_are_found_by_every_method(method, init):
    x, rows = _world()
    model = OrdinalEmbedding(method, dim=2, init=init, n_init=2).fit(rows[:1200])
    share, distance = REACHED[method]
    assert model.score(rows[1200:]) > share
    moved = procrustes_alignment(torch.from_numpy(model.embedding_), torch.from_numpy(x))
    assert moved.disparity < distance
    assert model.embedding_.shape == (20, 2)
    np.testing.assert_allclose(model.embedding_.mean(0), 0, atol=1e-9)
    assert (model.margins_ > 0).mean() == pytest.approx(model.score(rows[:1200]))
    assert model.history_[-1] <= model.history_[0]


@pytest.mark.parametrize("method", METHODS)
def test_the_objective_in_points_is_the_mean_loss_with_its_gradient(method):
    _, rows = _world(8, 40)
    quads, n = as_answers(torch.from_numpy(rows), 8)
    settings = {"margin": 0.7, "delta": 0.1, "alpha": 1.5, "p": 2, "gamma0": 0.8}
    objective = PointsObjective(
        AnswerMap(quads, n), method, 0.6, {**settings, "lower_weight": 1.0, "upper_weight": 0.5}
    )
    points = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    loss = triplet_loss(points, torch.from_numpy(rows), method, **settings, upper_weight=0.5)
    wanted = loss + 0.6 / 40 * points.square().sum()
    value, gradient = objective(points.detach())
    assert value == pytest.approx(wanted.item())
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, points)[0])


@pytest.mark.parametrize("settings", [{"method": "distributional", "p": 2}, {"method": "gnmds"}])
def test_the_gram_form_is_solved_and_cut_to_the_dimension(settings):
    _, rows = _world()
    model = OrdinalEmbedding(form="gram", dim=2, lam=3.0, **settings).fit(rows[:600])
    assert model.score(rows[1200:]) > 0.85
    assert 0 <= model.gap_ < 0.01 * model.objective_
    assert model.gram_.shape == (20, 20)
    values = np.sort(np.linalg.eigvalsh(model.gram_))
    np.testing.assert_allclose(
        np.sort(np.linalg.eigvalsh(model.embedding_.T @ model.embedding_)), values[-2:], rtol=1e-6
    )


def test_points_of_a_gram_matrix_are_of_its_largest_eigenvalues_with_fixed_signs():
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    full = points_of_gram(x @ x.T, 3)
    torch.testing.assert_close(full @ full.T, x @ x.T)
    for column in full.T:
        assert column[column.abs().argmax()] > 0
    torch.testing.assert_close(points_of_gram(x @ x.T, 2), full[:, :2])
    assert (points_of_gram(-torch.eye(3).double(), 2) == 0).all()


def test_new_items_are_placed_where_they_belong_and_the_others_stay():
    generator = np.random.default_rng(1)
    x, rows = _world(22, 6000)
    old = rows[(rows < 20).all(1)]
    new = rows[(rows >= 20).any(1)]
    model = OrdinalEmbedding("ste").fit(old, 20)
    kept = model.embedding_.copy()
    found = model.transform(new[:500])
    np.testing.assert_array_equal(model.embedding_, kept)
    moved = procrustes_alignment(torch.from_numpy(kept), torch.from_numpy(x[:20]))
    placed = moved.scale * torch.from_numpy(found) @ moved.rotation + moved.shift
    assert np.abs(placed.numpy() - x[20:]).max() < 0.4
    everything = np.concatenate([kept, found])
    near, far = (((everything[new[:, 0]] - everything[new[:, k]]) ** 2).sum(1) for k in (1, 2))
    assert (near < far)[500:].mean() > 0.93
    with pytest.raises(ValueError, match="no new item"):
        model.transform(old)
    with pytest.raises(ValueError, match="no answer about the new item 20"):
        model.transform(np.array([[21, 0, 1]]))
    assert generator is not None


def test_conflicts_count_answers_per_item():
    _, rows = _world(12, 400)
    model = OrdinalEmbedding("ste").fit(rows)
    report = model.conflicts(rows)
    margin = model.margins_
    for item in range(12):
        of_item = (rows == item).any(1)
        assert int(report.answers[item]) == of_item.sum()
        assert int(report.violated[item]) == (of_item & (margin <= 0)).sum()
    assert int(report.contradicted.sum()) == 0
    both = np.concatenate([rows[:5], rows[:1][:, [0, 2, 1]]])
    found = model.conflicts(both)
    assert set(found.contradicted.nonzero().flatten().tolist()) == set(rows[0].tolist())
    assert found.contradicted[rows[0]].tolist() == [2, 2, 2] or int(found.contradicted.max()) >= 2


def test_the_item_whose_answers_are_turned_round_is_the_worst():
    _, rows = _world(15, 2000)
    turned = (rows == 7).any(1) & (np.arange(2000) % 2 == 0)
    rows = np.where(turned[:, None], rows[:, [0, 2, 1]], rows)
    model = OrdinalEmbedding("tste").fit(rows)
    assert int(model.conflicts(rows).worst(3)[0]) == 7


def test_an_item_that_nobody_asked_about_is_in_the_middle_and_told():
    _, rows = _world()
    for form in ("factored", "gram"):
        with pytest.warns(UserWarning, match="2 of 22 items are in no answer, the first 20"):
            model = OrdinalEmbedding("distributional", form=form, lam=1.0).fit(rows, 22)
        np.testing.assert_allclose(model.embedding_[20:], 0, atol=1e-8)
        from equipoise.core.validate import reset_warnings

        reset_warnings()


def test_the_same_seed_is_the_same_and_points_to_begin_with_are_taken():
    x, rows = _world()
    first, second = (OrdinalEmbedding(init="random", seed=3).fit(rows).embedding_ for _ in range(2))
    np.testing.assert_array_equal(first, second)
    model = OrdinalEmbedding("gnmds", init=10 * x).fit(rows)
    assert model.score(rows) > 0.99
    with pytest.raises(ValueError, match=r"init must hold finite points of shape \(20, 2\)"):
        OrdinalEmbedding(init=x[:5]).fit(rows)


@pytest.mark.parametrize("settings", [{}, {"method": "distributional", "form": "gram", "lam": 2.0}])
def test_a_clone_and_a_saved_model_go_on_alike(settings, tmp_path):
    _, rows = _world(10, 200)
    model = clone(OrdinalEmbedding(**settings)).fit(rows)
    model.save(tmp_path / "places.safetensors")
    loaded = OrdinalEmbedding.load(tmp_path / "places.safetensors")
    np.testing.assert_array_equal(loaded.embedding_, model.embedding_)
    np.testing.assert_array_equal(loaded.gram_, model.gram_)
    assert repr(loaded) == repr(model)
    assert loaded.score(rows) == model.score(rows)
    (tmp_path / "other").write_text("nothing")
    with pytest.raises(ValueError, match="does not hold an OrdinalEmbedding"):
        OrdinalEmbedding.load(tmp_path / "other")


def test_many_items_are_placed_without_a_matrix_of_them():
    x, rows = _world(1600, 16000)
    model = OrdinalEmbedding("ste", tol=1e-4).fit(rows)
    assert model.score(rows) > 0.85
    assert x.shape == model.embedding_.shape


def test_alignment_undoes_a_move_and_keeps_the_size_if_asked():
    x = torch.randn(9, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    reference = 2.5 * x @ turn + 4
    found = procrustes_alignment(x, reference)
    torch.testing.assert_close(found.aligned, reference)
    torch.testing.assert_close(found.scale * x @ found.rotation + found.shift, reference)
    assert found.scale == pytest.approx(2.5)
    assert procrustes_alignment(x, reference, scaled=False).scale == 1
    assert procrustes_alignment(x, reference, scaled=False).disparity == pytest.approx((1.5 / 2.5) ** 2)
    with pytest.raises(ValueError, match="one place only"):
        procrustes_alignment(x, torch.ones(9, 3).double())


@pytest.mark.parametrize(
    ("settings", "rows", "message"),
    [
        ({"method": "mds"}, None, "method"),
        ({"form": "kernel"}, None, "form"),
        ({"form": "gram", "method": "ste"}, None, "has no form='gram'"),
        ({"solver": "admm"}, None, "solver"),
        ({"dim": 0}, None, "dim=0"),
        ({"dim": 20}, None, "dim=20 must be at most 19"),
        ({"p": 3}, None, "p=3"),
        ({"lam": -1.0}, None, "lam"),
        ({"alpha": 0.0}, None, "alpha"),
        ({"gamma0": 0.0}, None, "gamma0"),
        ({"init": "zero"}, None, "init"),
        ({}, [[0, 1, 1]], "row 0"),
        ({}, np.zeros((0, 3), dtype=int), "at least one row"),
        ({}, [[0.0, 1.0, 2.0]], "whole numbers"),
    ],
)
def test_bad_input_is_named(settings, rows, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        OrdinalEmbedding(**settings).fit(_world()[1] if rows is None else rows)


def test_nothing_is_asked_of_a_model_that_is_not_fitted():
    for call in (lambda m: m.score([[0, 1, 2]]), lambda m: m.transform([[0, 1, 2]]), lambda m: m.save("nowhere")):
        with pytest.raises(RuntimeError, match="not fitted"):
            call(OrdinalEmbedding())
