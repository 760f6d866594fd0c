import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from equipoise.longtail import (
    FrameClassifier,
    MarginMetric,
    NeuralCollapse,
    classification_margins,
    grassmannian_frame,
    neural_collapse_metrics,
    simplex_etf,
)
from equipoise.longtail.collapse.grassmannian import (
    frame_correlation,
    optimal_coherence,
    permute_frame,
    random_rotation,
    rotate_frame,
    welch_bound,
)
from equipoise.longtail.collapse.margins import (
    covering_bound,
    estimate_lipschitz,
    greedy_cover_number,
    loss_margin_bounds,
    multiclass_margin_bound,
    pairwise_min_margin,
    ufm_svm_optimum,
)


def _draw(seed=0, n=40, c=4, d=3):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % c
    h = torch.randn(c, d, generator=g, dtype=torch.float64)[y] + 0.3 * torch.randn(
        n, d, generator=g, dtype=torch.float64
    )
    return h, y, torch.randn(c, d, generator=g, dtype=torch.float64), torch.randn(c, generator=g, dtype=torch.float64)


@pytest.mark.parametrize(("c", "d"), [(2, 1), (3, 2), (4, 3), (4, 7), (10, 9)])
def test_a_simplex_has_equal_angles_and_no_centre(c, d):
    for frame in (simplex_etf(c, d), simplex_etf(c, d, generator=torch.Generator().manual_seed(0))):
        expected = torch.full((c, c), -1 / (c - 1), dtype=torch.float64).fill_diagonal_(1)
        torch.testing.assert_close(frame @ frame.T, expected)
        assert float(frame.sum(0).norm()) < 1e-12


@pytest.mark.parametrize(
    ("c", "d", "signed"),
    [
        (5, 2, True),
        (5, 3, True),
        (6, 3, True),
        (8, 3, True),
        (12, 3, True),
        (5, 2, False),
        (4, 3, False),
        (6, 3, False),
        (7, 3, False),
        (10, 5, False),
    ],
)
def test_frames_reach_the_known_optimum(c, d, signed):
    found = grassmannian_frame(c, d, signed=signed, restarts=4)
    best = optimal_coherence(c, d, signed=signed)
    torch.testing.assert_close(found.vectors.norm(dim=1), torch.ones(c, dtype=torch.float64), rtol=0, atol=1e-12)
    assert best - 1e-9 <= found.max_cosine <= best + 2e-3


def test_a_search_repeats_itself_and_beats_chance():
    one, again = (grassmannian_frame(9, 4, restarts=2, seed=3).vectors for _ in range(2))
    assert torch.equal(one, again)
    g = torch.Generator().manual_seed(0)
    chance = min(frame_correlation(torch.randn(9, 4, generator=g)).max_cosine for _ in range(200))
    assert frame_correlation(one).max_cosine < chance - 0.05


def test_no_frame_is_below_the_bounds():
    g = torch.Generator().manual_seed(1)
    for _ in range(300):
        frame = torch.randn(6, 3, generator=g, dtype=torch.float64)
        found = frame_correlation(frame)
        assert found.max_abs_cosine >= welch_bound(6, 3)
        assert found.max_cosine >= -1 / 5
        assert found.min_distance == pytest.approx(float(torch.pdist(normalize(frame, dim=1)).min()))


def test_permuting_and_turning_keep_the_angles():
    frame = grassmannian_frame(6, 3).vectors
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    moved = permute_frame(frame, order)
    assert torch.equal(moved[order.argsort()], frame)
    turned = rotate_frame(frame, random_rotation(3, torch.Generator().manual_seed(3)))
    torch.testing.assert_close(turned @ turned.T, frame @ frame.T)


def test_a_fixed_classifier_trains_features_towards_its_frame():
    head = FrameClassifier(simplex_etf(4, 3), scale=8.0)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(4)).requires_grad_()
    y = torch.arange(20) % 4
    torch.testing.assert_close(head(x), 8 * normalize(x, dim=1) @ simplex_etf(4, 3).float().T)
    for kind in ("cross_entropy", "dot_regression", "mse"):
        start = float(head.loss(x, y, kind).detach())
        (gradient,) = torch.autograd.grad(head.loss(x, y, kind), x)
        assert float(head.loss(x - 0.1 * gradient, y, kind).detach()) < start
    assert not list(head.parameters())
    wide = x.detach().double()
    exact = 8 * normalize(wide, dim=1) @ simplex_etf(4, 3).T
    torch.testing.assert_close(head(wide), exact, rtol=1e-14, atol=1e-14)


def test_collapsed_features_measure_zero():
    frame = simplex_etf(4, 3)
    found = neural_collapse_metrics(frame.repeat(5, 1), torch.arange(20) % 4, frame)
    for name in ("nc1", "nc1_trace_ratio", "cdnv", "nc2_equinorm", "nc2_equiangle", "nc2_max_angle", "nc2_etf_error"):
        assert float(found[name]) == pytest.approx(0, abs=1e-10), name
    for name in ("nc3", "gnc3", "nc4_disagreement", "gnc2_gap", "w_equinorm", "w_equiangle"):
        assert float(found[name]) == pytest.approx(0, abs=1e-6), name


@pytest.mark.parametrize(("c", "d"), [(4, 3), (4, 2), (3, 6)])
def test_nc1_is_the_trace_with_the_pseudo_inverse(c, d):
    h, y, w, b = _draw(5, 60, c, d)
    means = torch.stack([h[y == k].mean(0) for k in range(c)])
    within = h - means[y]
    centred = means - means.mean(0)
    s_w, s_b = within.T @ within / len(h), centred.T @ centred / c
    found = neural_collapse_metrics(h, y, w, b)
    assert float(found["nc1"]) == pytest.approx(float(torch.trace(s_w @ torch.linalg.pinv(s_b, rtol=1e-10)) / c))
    assert float(found["nc1_trace_ratio"]) == pytest.approx(float(torch.trace(s_w) / torch.trace(s_b)))
    spread = [float(within[y == k].square().sum(1).mean()) for k in range(c)]
    pairs = [(a, b) for a in range(c) for b in range(c) if a != b]
    apart = [(spread[a] + spread[b]) / (2 * float((means[a] - means[b]).square().sum())) for a, b in pairs]
    assert float(found["cdnv"]) == pytest.approx(sum(apart) / len(apart))
    nearest = torch.cdist(h, means).argmin(1)
    assert float(found["nc4_disagreement"]) == pytest.approx(
        float(((h @ w.T + b).argmax(1) != nearest).double().mean())
    )


def test_measures_do_not_see_shift_rotation_and_scale():
    h, y, w, _ = _draw(6)
    q = random_rotation(3, torch.Generator().manual_seed(7))
    plain = neural_collapse_metrics(h, y, w)
    turned = neural_collapse_metrics(h @ q.T, y, w @ q.T)
    shifted = neural_collapse_metrics(3 * h + 5, y, w)
    for name in ("nc1", "nc2_equinorm", "nc2_equiangle", "nc2_etf_error", "nc3"):
        assert float(turned[name]) == pytest.approx(float(plain[name])), name
        assert float(shifted[name]) == pytest.approx(float(plain[name])), name
    assert float(turned["gnc2_gap"]) == pytest.approx(float(plain["gnc2_gap"]))


def test_means_far_from_the_origin_keep_their_distances():
    # Enough classes for the distances that PyTorch would take from inner products.
    h, y, w, b = _draw(6, 120, 30, 29)
    near, far = neural_collapse_metrics(h, y, w, b), neural_collapse_metrics(h + 1e7, y, w, b - 1e7 * w.sum(1))
    for name in ("cdnv", "nc4_disagreement"):
        assert float(far[name]) == pytest.approx(float(near[name]), rel=1e-6), name


def test_the_gap_to_a_frame_that_must_be_searched_for():
    assert optimal_coherence(9, 4) is None
    best = grassmannian_frame(9, 4, restarts=2)
    chance = normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=1)
    for frame, gap in ((best.vectors, 0), (chance, frame_correlation(chance).max_cosine - best.max_cosine)):
        found = neural_collapse_metrics(frame.repeat(2, 1), torch.arange(18) % 9)
        assert float(found["gnc2_gap"]) == pytest.approx(gap, abs=1e-9)


def test_the_metric_adds_up_batches_and_leaves_missing_classes_out():
    h, y, w, b = _draw(8)
    metric = NeuralCollapse(4)
    metric.set_classifier(w, b)
    for rows in torch.arange(40).split(9):
        metric.update(h[rows], y[rows])
    for name, value in neural_collapse_metrics(h, y, w, b).items():
        torch.testing.assert_close(metric.compute()[name], value, equal_nan=True)
    some = y != 2
    with pytest.warns(UserWarning, match="class 2"):
        found = neural_collapse_metrics(h[some], y[some], w, b)
    renamed = torch.tensor([0, 1, 9, 2])[y[some]]
    rest = neural_collapse_metrics(h[some], renamed, w[[0, 1, 3]], b[[0, 1, 3]])
    assert float(found["nc3"]) == pytest.approx(float(rest["nc3"]))


def test_margins_are_the_gap_to_the_best_other():
    g = torch.Generator().manual_seed(9)
    logits, y = torch.randint(-3, 4, (60, 5), generator=g).double(), torch.randint(5, (60,), generator=g)
    found = classification_margins(logits, y)
    for row, label, margin in zip(logits.tolist(), y.tolist(), found.tolist(), strict=True):
        assert margin == row[label] - max(v for j, v in enumerate(row) if j != label)
    pairs = pairwise_min_margin(logits, y, 5)
    off = ~torch.eye(5, dtype=torch.bool)
    assert float(pairs[off].min()) == float(found.min())
    for a in range(5):
        for c in range(5):
            assert float(pairs[a, c]) == float((logits[y == a, a] - logits[y == a, c]).min())
    torch.testing.assert_close(classification_margins(3 * logits + 7, y), 3 * found)
    assert bool(pairwise_min_margin(logits[y > 0], y[y > 0], 5)[0].isnan().all())


def test_the_largest_loss_brackets_the_smallest_margin():
    g = torch.Generator().manual_seed(10)
    for c in (2, 3, 7):
        for _ in range(50):
            logits, y = 3 * torch.randn(9, c, generator=g, dtype=torch.float64), torch.randint(c, (9,), generator=g)
            loss = float(cross_entropy(logits, y, reduction="none").max())
            low, high = loss_margin_bounds(loss, c)
            assert low - 1e-9 <= float(classification_margins(logits, y).min()) <= high + 1e-9
            if c == 2:
                assert low == pytest.approx(high)


def test_the_margin_metric_adds_up_batches():
    g = torch.Generator().manual_seed(11)
    h, w = torch.randn(50, 3, generator=g, dtype=torch.float64), torch.randn(4, 3, generator=g, dtype=torch.float64)
    y = torch.arange(50) % 4
    metric = MarginMetric(4)
    for rows in torch.arange(50).split(12):
        metric.update(h[rows] @ w.T, y[rows], h[rows])
    found, margins = metric.compute(w), classification_margins(h @ w.T, y)
    assert float(found["p_min"]) == float(margins.min())
    assert float(found["normalized_p_min"]) == pytest.approx(float(margins.min() / (w.norm() * h.norm(dim=1).max())))
    torch.testing.assert_close(found["pairwise"], pairwise_min_margin(h @ w.T, y, 4))
    simplex = simplex_etf(4, 3)
    perfect = MarginMetric(4)
    perfect.update(simplex @ simplex.T, torch.arange(4))
    assert float(perfect.compute()["gamma_cv"]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("c", "n"), [(2, 1), (3, 2), (5, 4)])
def test_the_free_svm_has_all_margins_one_and_no_better_neighbour(c, n):
    found = ufm_svm_optimum(c, n)
    y = torch.arange(c).repeat_interleave(n)
    logits = found.features @ found.classifier.T
    gaps = logits.gather(1, y[:, None]) - logits
    others = ~torch.nn.functional.one_hot(y, c).bool()
    torch.testing.assert_close(gaps[others], torch.ones(c * n * (c - 1), dtype=torch.float64))
    value = (found.classifier.square().sum() + found.features.square().sum()) / 2
    assert float(value) == pytest.approx(found.objective)
    g = torch.Generator().manual_seed(12)
    for _ in range(50):
        m = found.classifier + 0.05 * torch.randn(found.classifier.shape, generator=g, dtype=torch.float64)
        z = found.features + 0.05 * torch.randn(found.features.shape, generator=g, dtype=torch.float64)
        scores = z @ m.T
        least = float((scores.gather(1, y[:, None]) - scores)[others].min())
        # Scaled until it is feasible.
        assert float((m.square().sum() + z.square().sum()) / 2) / least >= found.objective - 1e-9


def test_the_bound_has_the_terms_of_its_expression():
    g = torch.Generator().manual_seed(13)
    margins = [torch.randn(n, 3, generator=g) + 1 for n in (9, 5, 2)]
    gamma = torch.rand(3, 3, generator=g) + 0.5
    rad, K, delta = torch.tensor([0.2, 0.1, 0.3]), 3.0, 0.05
    found = multiclass_margin_bound(margins, gamma, rad, K, delta)
    total = 16
    expected = {"complexity": 0.0, "margin_log": 0.0, "empirical": 0.0, "confidence": 0.0}
    for a in range(3):
        p, n = len(margins[a]) / total, len(margins[a])
        for c in {0, 1, 2} - {a}:
            x = float(gamma[a, c])
            expected["complexity"] += p * float(rad[a]) / x
            expected["margin_log"] += p * math.sqrt(max(0, math.log(math.log2(4 * K / x))) / n)
            expected["empirical"] += p * sum(float(v) <= x for v in margins[a][:, c]) / n
            expected["confidence"] += p * math.sqrt(math.log(3 * 2 / delta) / n)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name
    assert found["total"] == pytest.approx(sum(expected.values()))
    below = torch.stack([m.amin(0) for m in margins]).clamp_min(1e-3) * 0.5
    low = [m.clamp_min(1e-2) for m in margins]
    assert multiclass_margin_bound(low, below.clamp_max(5e-3), rad, K)["empirical"] == 0


def test_covers_and_slopes():
    points = torch.tensor([[0.0, 0], [1, 0], [0, 0], [3, 0]])
    assert greedy_cover_number(points, 0.0) == 3
    assert greedy_cover_number(points, 1.0) == 2
    assert greedy_cover_number(points, 10.0) == 1
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(14))
    assert estimate_lipschitz(lambda v: 3 * v, x) == pytest.approx(3, rel=1e-5)
    y = torch.arange(50) % 2
    wide = covering_bound(x, y, torch.full((2, 2), 100.0), torch.eye(2), 1.0)
    assert wide == pytest.approx(2 / 100)
    with pytest.warns(UserWarning, match="infinite"):
        assert covering_bound(x, y, torch.zeros(2, 2), torch.eye(2), 1.0) == math.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: simplex_etf(10, 5), "dimension >= 9"),
        (lambda: permute_frame(torch.eye(3), [0, 0, 1]), "once each"),
        (lambda: rotate_frame(torch.eye(2), 2 * torch.eye(2)), "orthogonal"),
        (lambda: FrameClassifier(2 * torch.eye(2)), "unit"),
        (lambda: frame_correlation(torch.zeros(2, 2)), "norm zero"),
        (lambda: neural_collapse_metrics(torch.zeros(2, 2), torch.tensor([0, 0])), "two classes"),
        (lambda: NeuralCollapse(2).update(torch.zeros(2, 2), torch.tensor([0, 2])), "from 0 to 1"),
        (lambda: FrameClassifier(torch.eye(2)).loss(torch.eye(2), torch.tensor([0, 2]), "mse"), "from 0 to 1"),
        (lambda: loss_margin_bounds(-1.0, 3), "max_loss"),
        (lambda: ufm_svm_optimum(1), "num_classes=1"),
        (lambda: greedy_cover_number(torch.zeros(3), 0.1), r"\(n, d\)"),
        (
            lambda: multiclass_margin_bound([torch.ones(2, 2)] * 2, torch.zeros(2, 2), torch.ones(2), 1.0),
            r"gamma\[0, 1\]",
        ),
    ],
)
def test_bad_input_is_named(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()
