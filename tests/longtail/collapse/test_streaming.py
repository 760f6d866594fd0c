import copy
import pickle

import pytest
import torch
from torch.nn.functional import normalize

from equipoise.longtail import NearestMeanDisagreement, NeuralCollapse, StreamingNeuralCollapse, neural_collapse_metrics


def _draw(c=4, d=6, spread=0.3, offset=0.0, seed=0, n=90):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(c, (n,), generator=g)
    centres = torch.randn(c, d, generator=g, dtype=torch.float64) + offset
    h = centres[y] + spread * torch.randn(n, d, generator=g, dtype=torch.float64)
    return h, y, torch.randn(c, d, generator=g, dtype=torch.float64), torch.randn(c, generator=g, dtype=torch.float64)


def _streamed(h, y, w=None, b=None, sizes=(1, 40, 7), c=4, **options):
    metric = StreamingNeuralCollapse(c, h.shape[1], **options)
    metric.set_classifier(w, b)
    batches = list(zip(h.split([*sizes, len(h) - sum(sizes)]), y.split([*sizes, len(h) - sum(sizes)]), strict=True))
    for features, target in batches:
        metric.update(features, target)
    found = metric.compute()
    if w is not None:
        second = metric.second_pass()
        for features, _ in batches:
            second.update(features)
        found["nc4_disagreement"] = second.compute()
    return found


@pytest.mark.parametrize("global_mean", ["class_average", "sample"])
@pytest.mark.parametrize(("c", "d"), [(2, 1), (4, 2), (4, 3), (4, 6), (7, 20)])
@pytest.mark.parametrize(("spread", "offset"), [(0.3, 0.0), (1e-6, 0.0), (1e-3, 1e4), (5.0, -3.0)])
def test_batches_give_what_all_features_give(c, d, spread, offset, global_mean):
    h, y, w, b = _draw(c, d, spread, offset)
    wanted = neural_collapse_metrics(h, y, w, b, num_classes=c, global_mean=global_mean)
    found = _streamed(h, y, w, b, c=c, global_mean=global_mean)
    assert found.keys() == wanted.keys()
    # Means at 1e4 have digits down to 1e-12, and a spread of 1e-3 is known to 1e-9 of itself at best.
    rtol, atol = (1e-8, 1e-11) if offset == 1e4 else (1e-10, 1e-14)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, equal_nan=True, msg=name)


def test_second_moments_would_have_lost_every_digit():
    h, y, *_ = _draw(3, 5, spread=1e-6, offset=1e4)
    wanted = neural_collapse_metrics(h, y, num_classes=3)["nc1_trace_ratio"]
    found = _streamed(h, y, c=3)["nc1_trace_ratio"]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    means = torch.stack([h[y == c].mean(0) for c in range(3)])
    naive = ((h.square().sum() - sum((y == c).sum() * means[c].square().sum() for c in range(3))) / len(h)).abs()
    between = (means - means.mean(0)).square().sum() / 3
    assert not torch.allclose(naive / between, wanted, rtol=0.5, atol=0)


def test_collapsed_features_are_exactly_collapsed():
    frame = torch.eye(3, dtype=torch.float64) - 1 / 3
    found = _streamed(3 * frame.repeat(20, 1), torch.arange(60) % 3, normalize(frame), torch.zeros(3).double(), c=3)
    for name in ("nc1", "nc1_trace_ratio", "cdnv", "nc4_disagreement"):
        assert float(found[name]) == 0, name
    for name in ("nc2_equinorm", "nc2_max_angle", "nc3"):
        assert float(found[name]) < 1e-12, name


def test_merged_states_are_those_of_all_samples_in_any_order():
    h, y, *_ = _draw(5, 4)
    wanted = neural_collapse_metrics(h, y, num_classes=5)
    parts = [y < 2, (y >= 2) & (torch.arange(90) % 2 == 0), (y >= 2) & (torch.arange(90) % 2 == 1)]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        metrics = []
        for k in order:
            metric = StreamingNeuralCollapse(5, 4)
            metric.update(h[parts[k]], y[parts[k]])
            metrics.append(pickle.loads(pickle.dumps(copy.deepcopy(metric))))
        # A process that saw nothing changes nothing.
        first = metrics[0]
        for other in (*metrics[1:], StreamingNeuralCollapse(5, 4)):
            first.merge_state(other)
        found = first.compute()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-14, msg=name)


def test_forward_gives_the_batch_and_adds_it():
    h, y, *_ = _draw()
    metric = StreamingNeuralCollapse(4, 6)
    metric.update(h[:30], y[:30])
    torch.testing.assert_close(metric(h[30:], y[30:]), neural_collapse_metrics(h[30:], y[30:], num_classes=4))
    torch.testing.assert_close(metric.compute(), neural_collapse_metrics(h, y, num_classes=4))


def test_classes_without_samples_are_left_out_of_both_passes():
    h, y, w, b = _draw()
    h, y = h[y != 1], y[y != 1]
    # The missing class would win everywhere.
    b[1] = 100.0
    with pytest.warns(UserWarning, match="class 1 has no sample"):
        wanted = neural_collapse_metrics(h, y, w, b, num_classes=4)
    found = _streamed(h, y, w, b)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-14, msg=name)


def test_the_state_has_the_size_that_is_promised_and_single_precision_is_summed_in_double():
    metric = StreamingNeuralCollapse(4, 6)
    h, y, *_ = _draw()
    metric.update(h.float(), y)
    assert metric.moments.numel() == 4 * (6 + 2) + 6**2
    assert metric.moments.dtype is torch.float64
    torch.testing.assert_close(metric.compute(), neural_collapse_metrics(h.float(), y, num_classes=4))


def test_before_the_first_batch_the_measures_of_the_classifier_are_nan_too():
    for metric in (StreamingNeuralCollapse(3, 5), NeuralCollapse(3)):
        metric.set_classifier(torch.eye(3, 5))
        with pytest.warns(UserWarning, match="before the ``update``"):
            found = metric.compute()
        h, y, *_ = _draw(3, 5)
        metric.update(h, y)
        assert list(found) == list(metric.compute())
        assert all(value.isnan() for value in found.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StreamingNeuralCollapse(1, 4), "num_classes"),
        (lambda: StreamingNeuralCollapse(3, 0), "num_features"),
        (lambda: StreamingNeuralCollapse(3, 4).update(torch.ones(2, 5), torch.tensor([0, 1])), r"\(n, 4\)"),
        (lambda: StreamingNeuralCollapse(3, 4).update(torch.ones(2, 4), torch.tensor([0, 3])), "target holds"),
        (lambda: StreamingNeuralCollapse(3, 4).second_pass(), "set_classifier"),
        (lambda: _streamed(torch.ones(90, 2), torch.zeros(90, dtype=torch.long)), "at least two classes"),
        (lambda: NearestMeanDisagreement(torch.eye(2), torch.eye(2)).update(torch.ones(3, 4)), r"\(n, 2\)"),
    ],
)
def test_bad_input_is_named(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()
