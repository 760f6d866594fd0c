import math

import pytest
import torch

from equipoise.core.scores import HIGHER_IS_OUT
from equipoise.openworld.openset.open_auc import OpenAUC, open_auc
from equipoise.openworld.outliers.detection import ood_metrics
from equipoise.openworld.prompts.openworld_auc import OpenworldAUC, harmonic_mean_accuracy, openworld_auc


def _data(seed=0, n=80):
    """Score, prediction, target, side, and hits of a joint decision; scores with ties."""
    g = torch.Generator().manual_seed(seed)
    inside = torch.rand(n, generator=g) < 0.6
    score = (torch.randn(n, generator=g, dtype=torch.float64) + inside).round(decimals=1)
    target = torch.randint(0, 5, (n,), generator=g)
    pred = torch.where(torch.rand(n, generator=g) < 0.7, target, (target + 1) % 5)
    return score, pred, target, inside, torch.rand(n, generator=g) < 0.5


def _fed(metric, rows, columns):
    for part in rows:
        metric.update(*(x[part] for x in columns))
    return metric


BATCHES = (slice(0, 30), slice(30, 31), slice(31, None))


@pytest.mark.parametrize("ties", ["half", "strict"])
def test_openworld_auc_of_batches_is_that_of_the_whole_with_all_companions(ties):
    score, pred, target, base, joint = _data()
    right = pred == target
    found = _fed(OpenworldAUC(ties), BATCHES, (score, pred, target, base, joint)).compute()
    sides = (score[base], score[~base], right[base])
    detection = ood_metrics(score[base], score[~base])
    wanted = {
        "openworld_auc": openworld_auc(*sides, right[~base], ties=ties),
        "base_accuracy": right[base].double().mean(),
        "new_accuracy": right[~base].double().mean(),
        "overall_accuracy": joint.double().mean(),
        "open_auc": open_auc(*sides, ties=ties),
        **{name: detection[name] for name in ("auroc", "aupr_in", "aupr_out")},
        **{name: detection[name] for name in ("fpr95_id_positive", "fpr95_ood_positive")},
    }
    mean = harmonic_mean_accuracy(float(wanted["base_accuracy"]), float(wanted["new_accuracy"]))
    assert set(found) == {*wanted, "harmonic_mean"}
    assert float(found.pop("harmonic_mean")) == pytest.approx(mean)
    torch.testing.assert_close(found, wanted)


def test_openworld_auc_is_the_share_of_pairs_with_both_right():
    score, pred, target, base, _ = _data(1)
    hits = [
        (pred[i] == target[i])
        * (pred[j] == target[j])
        * (float(score[i] > score[j]) + 0.5 * float(score[i] == score[j]))
        for i in base.nonzero().squeeze(1)
        for j in (~base).nonzero().squeeze(1)
    ]
    found = _fed(OpenworldAUC(), BATCHES, (score, pred, target, base)).compute()
    assert float(found["openworld_auc"]) == pytest.approx(float(torch.stack(hits).mean()))
    assert "overall_accuracy" not in found


@pytest.mark.parametrize("ties", ["half", "strict"])
def test_open_auc_of_batches_is_that_of_the_whole(ties):
    score, pred, target, known, _ = _data(2)
    right = (pred == target)[known]
    found = _fed(OpenAUC(ties), BATCHES, (score, pred, target, known.long())).compute()
    torch.testing.assert_close(found["open_auc"], open_auc(score[known], score[~known], right, ties=ties))
    torch.testing.assert_close(found["accuracy"], right.double().mean())
    torch.testing.assert_close(found["auroc"], ood_metrics(score[known], score[~known])["auroc"])


def test_what_an_unknown_sample_is_called_does_not_matter_to_open_auc():
    score, pred, target, known, _ = _data(3)
    called = torch.where(known, target, -1)
    one, other = (_fed(OpenAUC(), BATCHES, (score, pred, labels, known)).compute() for labels in (target, called))
    assert one == other


@pytest.mark.parametrize("metric", [OpenAUC, OpenworldAUC])
def test_a_score_of_the_other_direction_gives_the_same(metric):
    score, *rest, _ = _data(4)
    one = _fed(metric(), BATCHES, (score, *rest)).compute()
    other = _fed(metric(higher_is=HIGHER_IS_OUT), BATCHES, (-score, *rest)).compute()
    torch.testing.assert_close(one, other)
    wrong = _fed(metric(), BATCHES, (-score, *rest)).compute()
    assert float(wrong["auroc"]) == pytest.approx(1 - float(one["auroc"]))


def test_repeating_a_domain_moves_overall_accuracy_only():
    score, pred, target, base, joint = _data(5)
    joint &= base
    columns = (score, pred, target, base, joint)
    metric = _fed(OpenworldAUC(), [slice(None)], columns)
    before = metric.compute()
    for _ in range(9):
        metric.update(*(x[~base] for x in columns))
    after = metric.compute()
    for name in ("openworld_auc", "base_accuracy", "new_accuracy", "harmonic_mean", "open_auc", "auroc"):
        assert float(after[name]) == pytest.approx(float(before[name]), abs=1e-12), name
    assert abs(float(after["overall_accuracy"]) - float(before["overall_accuracy"])) > 0.1


def test_the_recall_of_the_false_positive_rates_can_be_set():
    columns = _data(6)[:4]
    score, base = columns[0], columns[3]
    found = _fed(OpenworldAUC(recall=0.5), BATCHES, columns).compute()
    wanted = ood_metrics(score[base], score[~base], recall=0.5)["fpr95_id_positive"]
    torch.testing.assert_close(found["fpr95_id_positive"], wanted)


@pytest.mark.parametrize("metric", [OpenAUC, OpenworldAUC])
def test_one_side_alone_is_nan_with_a_warning_or_an_error(metric):
    score, pred, target, inside, _ = (x[:5] for x in _data())
    for value, missing, own in ((1, "unknown|new", "base_accuracy"), (0, "known|base", "new_accuracy")):
        side = torch.full_like(inside, value)
        judge = metric()
        judge.update(score, pred, target, side)
        with pytest.warns(UserWarning, match=f"undefined without ({missing}) samples"):
            found = judge.compute()
        assert math.isnan(found["auroc"])
        assert math.isnan(found.get("openworld_auc", found["open_auc"]))
        if metric is OpenworldAUC:
            assert float(found[own]) == float((pred == target).double().mean())
        strict = metric(on_undefined="raise")
        strict.update(score, pred, target, side)
        with pytest.raises(ValueError, match="undefined without"):
            strict.compute()


def test_joint_hits_come_with_every_batch_or_with_none():
    score, pred, target, base, joint = _data()
    metric = OpenworldAUC()
    metric.update(score, pred, target, base, joint)
    metric.update(score, pred, target, base)
    with pytest.raises(ValueError, match="some batches only"):
        metric.compute()
    metric.reset()
    metric.update(score, pred, target, base, joint.long())
    assert float(metric.compute()["overall_accuracy"]) == float(joint.double().mean())


def test_a_saved_state_goes_on():
    columns = _data()
    one, later = OpenworldAUC(), OpenworldAUC()
    one.persistent(True)
    later.persistent(True)
    _fed(one, [slice(0, 40)], columns)
    later.load_state_dict(one.state_dict())
    _fed(later, [slice(40, None)], columns)
    torch.testing.assert_close(later.compute(), _fed(OpenworldAUC(), [slice(None)], columns).compute())


def test_infinite_scores_are_for_open_auc_only():
    score, pred, target, side, _ = _data()
    score[~side] = -torch.inf
    assert float(_fed(OpenAUC(), BATCHES, (score, pred, target, side)).compute()["auroc"]) == 1
    with pytest.raises(ValueError, match="infinite"):
        OpenworldAUC().update(score, pred, target, side)
