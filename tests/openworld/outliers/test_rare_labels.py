"""What is left when frequent classes are dropped, against counting by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.openworld import ood_metrics, tail_ood_metrics, tail_ood_profile
from equipoise.openworld.outliers.rare_labels import class_score_histograms


def _world(n=30, m=20, classes=6, seed=0):
    rng = np.random.default_rng(seed)
    target = torch.as_tensor((rng.random((n, classes)) < np.linspace(0.6, 0.05, classes)).astype(int))
    return torch.as_tensor(rng.normal(1, 1, n).round(1)), target, torch.as_tensor(rng.normal(0, 1, m).round(1))


def _by_hand(scores, target, ood, num_head):
    """Plain loops: the head, who is kept, AUROC with ties halved, and the least FPR with recall of 95 %."""
    counts = [sum(row[c] for row in target) for c in range(len(target[0]))]
    head = sorted(range(len(counts)), key=lambda c: (-counts[c], c))[:num_head]
    kept = [not any(row[c] for c in head) for row in target]
    left = [s for s, keep in zip(scores, kept, strict=True) if keep]
    if not left:
        return head, kept, None, None
    wins = sum((a > b) + 0.5 * (a == b) for a in left for b in ood)
    rates = [sum(b >= t for b in ood) / len(ood) for t in left if sum(a >= t for a in left) >= 0.95 * len(left) - 1e-9]
    return head, kept, wins / len(left) / len(ood), min(rates)


@given(st.integers(0, 60), st.integers(0, 6), st.integers(1, 30), st.integers(1, 9))
def test_the_metrics_are_those_of_the_samples_without_frequent_classes(seed, num_head, n, m):
    scores, target, ood = _world(n, m, seed=seed)
    head, kept, auroc, fpr = _by_hand(scores.tolist(), target.tolist(), ood.tolist(), num_head)
    if auroc is None:
        return
    found = tail_ood_metrics(scores, target, ood, num_head)
    assert found["head_classes"].tolist() == head
    assert found["kept"].tolist() == kept
    assert found["num_kept"] == sum(kept)
    assert float(found["auroc"]) == pytest.approx(auroc, abs=1e-12)
    assert float(found["fpr95_id_positive"]) == pytest.approx(fpr, abs=1e-12)


def test_without_a_head_all_known_samples_count():
    scores, target, ood = _world()
    found = tail_ood_metrics(scores, target, ood, 0)
    assert found["num_kept"] == len(scores)
    assert found["head_classes"].tolist() == []
    for name, value in ood_metrics(scores, ood).items():
        assert torch.equal(found[name], value)


def test_equally_frequent_classes_go_by_their_index():
    found = tail_ood_metrics(torch.ones(4), torch.eye(4).long(), torch.ones(1), 2)
    assert found["head_classes"].tolist() == [0, 1]
    assert found["kept"].tolist() == [False, False, True, True]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32])
def test_samples_without_labels_are_kept(dtype):
    found = tail_ood_metrics(torch.ones(2), torch.tensor([[1, 1], [0, 0]]).to(dtype), torch.ones(1), 2)
    assert found["kept"].tolist() == [False, True]


def test_a_profile_is_the_metrics_of_each_number():
    scores, target, ood = _world()
    profile = tail_ood_profile(scores, target, ood, [3, 0, 1])
    for found, num_head in zip(profile, [3, 0, 1], strict=True):
        alone = tail_ood_metrics(scores, target, ood, num_head)
        assert found["num_head"] == num_head
        assert torch.equal(found["kept"], alone["kept"])
        assert float(found["auroc"]) == float(alone["auroc"])


def test_the_direction_of_the_score_is_heeded():
    scores, target, ood = _world()
    known, unknown = (
        tail_ood_metrics(sign * scores, target, sign * ood, 2, higher_is=side, recall=0.8)
        for sign, side in ((1, "in"), (-1, "out"))
    )
    for name in ood_metrics(scores, ood):
        assert float(known[name]) == float(unknown[name])


def test_when_nothing_is_left_there_are_no_metrics():
    scores, target, ood = torch.ones(3), torch.tensor([[1, 0], [1, 1], [0, 1]]), torch.ones(2)
    with pytest.warns(UserWarning, match="the 2 most frequent classes"):
        found = tail_ood_metrics(scores, target, ood, 2)
    assert found["num_kept"] == 0
    names = set(ood_metrics(scores, ood))
    assert names <= set(found)
    assert all(found[name] is None for name in names)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    scores, target, ood = _world()
    with pytest.raises(ValueError, match="num_head=7 must be at most 6"):
        tail_ood_metrics(scores, target, ood, 7)


def test_the_histograms_are_numpys_class_by_class():
    scores, target, _ = _world(200)
    edges, counts = class_score_histograms(scores, target, bins=7)
    span = float(scores.min()), float(scores.max())
    for c in range(target.shape[1]):
        wanted, wanted_edges = np.histogram(scores[target[:, c] == 1].numpy(), 7, span)
        assert counts[c].tolist() == wanted.tolist()
        np.testing.assert_allclose(edges.numpy(), wanted_edges)
