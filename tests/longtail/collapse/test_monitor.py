import math

import pytest
import torch
from torch import nn

from equipoise.longtail import (
    FrameClassifier,
    TPTMonitor,
    classification_margins,
    neural_collapse_metrics,
    simplex_etf,
    symmetric_generalization,
)
from equipoise.longtail.collapse.grassmannian import permute_frame, rotate_frame


def _world():
    g = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = 4 * torch.eye(3)[y] + 0.5 * torch.randn(60, 3, generator=g)
    torch.manual_seed(0)
    return x, y, nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def test_a_row_is_measured_in_evaluation_mode_over_all_batches():
    x, y, model = _world()
    monitor = TPTMonitor(3, model[3])
    batches = [(x[rows], y[rows]) for rows in torch.arange(60).split(13)]
    row = monitor.on_epoch_end(model.train(), batches, batches)
    assert model.training
    model.eval()
    with torch.no_grad():
        logits, features = model(x), model[:3](x)
    margins = classification_margins(logits.double(), y)
    assert row["p_min"] == pytest.approx(float(margins.min()))
    assert row["normalized_p_min"] == pytest.approx(
        float(margins.min() / (model[3].weight.detach().norm() * features.norm(dim=1).max())), rel=1e-5
    )
    assert row["train_accuracy"] == row["test_accuracy"] == float((logits.argmax(1) == y).double().mean())
    assert row["train_loss"] == pytest.approx(float(nn.functional.cross_entropy(logits.double(), y)), rel=1e-6)
    collapse = neural_collapse_metrics(features, y, model[3].weight.detach(), model[3].bias.detach())
    assert row["nc1"] == pytest.approx(float(collapse["nc1"]))
    assert not model[3]._forward_pre_hooks
    assert monitor.on_epoch_end(model, [(x, y.short())]) == pytest.approx(
        {**row, "epoch": 1.0, "test_accuracy": math.nan}, nan_ok=True
    )


def test_the_terminal_phase_begins_when_every_margin_is_positive_and_stays():
    x, y, model = _world()
    monitor = TPTMonitor(3, model[3], patience=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with pytest.raises(RuntimeError, match="has not begun"):
        monitor.summary()
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
        monitor.on_epoch_end(model, [(x, y)])
    positive = [row["p_min"] > 0 for row in monitor.history]
    first = next(k for k in range(59) if positive[k] and positive[k + 1])
    assert monitor.t0 == first
    found = monitor.summary(5)
    assert found["p_min at the end"] == monitor.history[-1]["p_min"]
    assert math.isnan(found["test accuracy, last"])


def test_the_statistic_is_that_of_a_one_way_analysis():
    from scipy.stats import f_oneway

    table = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    frames = [permute_frame(simplex_etf(4, 3), [(k + j) % 4 for j in range(4)]) for k in range(4)]
    place = {tuple(frame.flatten().tolist()): k for k, frame in enumerate(frames)}
    found = symmetric_generalization(
        lambda frame, seed: float(table[place[tuple(frame.flatten().tolist())], seed]), frames, range(5)
    )
    torch.testing.assert_close(found.accuracy, table)
    assert found.f_statistic == pytest.approx(f_oneway(*table.numpy()).statistic)


def test_what_cannot_be_watched_is_said():
    with pytest.raises(TypeError, match="weight"):
        TPTMonitor(3, nn.ReLU())
    with pytest.raises(ValueError, match="2 frames"):
        symmetric_generalization(lambda frame, seed: 0.0, [torch.eye(2)], [0, 1])


@pytest.mark.parametrize("normalize", [True, False])
def test_a_fixed_frame_is_measured_as_the_linear_layer_that_it_is(normalize):
    x, y, model = _world()
    head = FrameClassifier(simplex_etf(3, 8), 5.0, normalize=normalize)
    row = TPTMonitor(3, head).on_epoch_end(nn.Sequential(*model[:3], head), [(x, y)])
    model.eval()
    with torch.no_grad():
        features = nn.functional.normalize(model[:3](x), dim=1) if normalize else model[:3](x)
    weight = 5 * simplex_etf(3, 8)
    margins = classification_margins(features.double() @ weight.T, y)
    assert row["p_min"] == pytest.approx(float(margins.min()), rel=1e-5)
    longest = features.norm(dim=1).max().double()
    assert row["normalized_p_min"] == pytest.approx(float(margins.min() / (weight.norm() * longest)), rel=1e-5)
    wanted = neural_collapse_metrics(features, y, weight.float())
    assert row["nc1"] == pytest.approx(float(wanted["nc1"]), rel=1e-4)
    assert row["nc3"] == pytest.approx(float(wanted["nc3"]), rel=1e-4)


def test_epochs_are_counted_where_only_some_are_measured():
    y = torch.arange(60) % 3
    model = nn.Sequential(nn.Linear(3, 3, bias=False))
    monitor = TPTMonitor(3, model[0], patience=2)
    for epoch, sign in ((6, -1), (13, 1), (20, 1), (27, 1)):
        model[0].weight.data = sign * torch.eye(3)
        monitor.on_epoch_end(model, [(4 * torch.eye(3)[y], y)], epoch=epoch)
    assert [row["epoch"] for row in monitor.history] == [6, 13, 20, 27]
    assert monitor.t0 == 13
    assert monitor.summary()["p_min at t0"] == 4
    later = TPTMonitor(3, model[0])
    later.on_epoch_end(model, [(4 * torch.eye(3)[y], y)], epoch=40)
    assert (later.t0, later.summary()["p_min at t0"]) == (40, 4)


def test_nothing_to_measure_is_said(plain_inputs):
    x, y, model = _world()
    with pytest.raises(ValueError, match="train holds no batch"):
        TPTMonitor(3, model[3]).on_epoch_end(model, [])
    with pytest.raises(ValueError, match="does not call the classifier"):
        TPTMonitor(3, nn.Linear(8, 3)).on_epoch_end(model, [(x, y)])
    assert model.training


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_a_permutation_is_one_in_any_integers(dtype, plain_inputs):
    frame = simplex_etf(4, 3)
    order = torch.tensor([1, 0, 3, 2], dtype=dtype)
    wanted = frame[[1, 0, 3, 2]]
    assert torch.equal(permute_frame(frame, order), wanted)
    assert torch.equal(permute_frame(frame, order.numpy()[::-1].copy()[::-1]), wanted)


def test_a_rotation_that_is_not_finite_is_refused(plain_inputs):
    with pytest.raises(ValueError, match="rotation holds 4 NaN"):
        rotate_frame(torch.eye(2), torch.full((2, 2), math.nan))
