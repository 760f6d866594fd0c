import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from equipoise.core.scores import ScoreSpec
from equipoise.openworld import OpenWorldReport, fooled_measures
from equipoise.openworld.multilabel.metrics import multilabel_ranking_metrics, tkpr
from equipoise.openworld.openset.confusion import open_set_confusion, open_set_f1, youden_index
from equipoise.openworld.openset.open_auc import open_auc
from equipoise.openworld.prompts.openworld_auc import openworld_auc
from equipoise.openworld.topk.metrics import autkc, topk_accuracy

C, NEW = 6, 3


def _world(seed=0, n=90, new=NEW):
    g = torch.Generator().manual_seed(seed)
    target = torch.randint(-1, C + new, (n,), generator=g)
    class_scores = torch.randn(n, C + new, generator=g) + 2 * torch.nn.functional.one_hot(target.clamp_min(0), C + new)
    open_score = (torch.randn(n, generator=g) + (target >= 0) * (target < C)).double()
    return class_scores, open_score, target


def test_every_group_equals_its_own_function():
    class_scores, open_score, target = _world()
    report = OpenWorldReport(C, NEW, k=(1, 3, 5))
    report.update(class_scores, open_score, target)
    found = report.compute()
    known, new = (target >= 0) & (target < C), target >= C
    of_known, pred = class_scores[known][:, :C], class_scores[:, :C].argmax(1)
    right = (pred == target)[known]
    new_right = (class_scores[new][:, C:].argmax(1) + C) == target[new]
    expected = {
        "closed_set/accuracy": right.double().mean(),
        "novelty/auroc": roc_auc_score(known.numpy(), open_score.numpy()),
        "open_set/open_auc": open_auc(open_score[known], open_score[~known], right),
        "open_world/openworld_auc": openworld_auc(open_score[known], open_score[new], right, new_right),
        "open_world/new_accuracy": new_right.double().mean(),
        "open_world/overall_accuracy": (class_scores.argmax(1) == target)[target >= 0].double().mean(),
    }
    for k in (1, 3, 5):
        expected[f"closed_set/top_{k}_accuracy"] = topk_accuracy(of_known, target[known], k)
        expected[f"closed_set/autkc@{k}"] = autkc(of_known, target[known], k)
    by_class = [right[target[known] == c].double().mean() for c in range(C)]
    expected["closed_set/balanced_accuracy"] = torch.stack(by_class).mean()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), abs=1e-12), name


@pytest.mark.parametrize("side", ["in", "out"])
def test_measures_at_a_threshold_are_those_of_the_confusion_matrix_there(side):
    class_scores, open_score, target = _world(1)
    given = ScoreSpec(side).inward(open_score)
    report = OpenWorldReport(C, NEW, higher_is=side, known_recall=0.8)
    report.update(class_scores, given, target)
    found = report.compute()
    known, pred = (target >= 0) & (target < C), class_scores[:, :C].argmax(1)
    threshold = float(found["open_set/threshold@known_recall"])
    confusion = open_set_confusion(
        pred[known],
        target[known],
        given[known],
        pred[~known],
        given[~known],
        threshold=threshold,
        num_classes=C,
        higher_is=side,
    )
    assert float(found["open_set/f1_macro@known_recall"]) == pytest.approx(float(open_set_f1(confusion)))
    assert float(found["open_set/youden_macro@known_recall"]) == pytest.approx(float(youden_index(confusion)))
    accepted = (open_score >= ScoreSpec(side).inward(torch.tensor(threshold)))[known].double().mean()
    assert accepted >= 0.8
    assert accepted - 1 / int(known.sum()) < 0.8
    for name in ("f1_macro", "f1_micro", "youden_macro", "youden_micro", "normalized_accuracy"):
        assert found[f"open_set/{name}@best"] >= found[f"open_set/{name}@known_recall"]


def test_of_equal_scores_the_first_class_is_predicted():
    class_scores, open_score, target = _world(6)
    class_scores = class_scores.clamp(0, 1).round()
    report = OpenWorldReport(C, NEW)
    report.update(class_scores, open_score, target)
    seen = report.decisions()
    assert seen.pred.equal(class_scores[:, :C].argmax(1))
    assert float((seen.margin == 0).double().mean()) > 0.5


def test_constant_scores_are_the_first_class_and_no_better_than_chance():
    report = OpenWorldReport(2, 2, k=(1, 2))
    report.update(torch.zeros(8, 4), torch.zeros(8), torch.tensor([0, 0, 0, 1, 2, 3, -1, -1]))
    found = report.compute()
    wanted = {
        "closed_set/accuracy": 3 / 4,
        "closed_set/top_1_accuracy": 0,
        "closed_set/top_2_accuracy": 1,
        "novelty/auroc": 1 / 2,
        "open_set/open_auc": 3 / 8,
        "open_world/base_accuracy": 3 / 4,
        "open_world/new_accuracy": 1 / 2,
        "open_world/openworld_auc": 3 / 16,
        "open_world/overall_accuracy": 3 / 6,
    }
    assert {name: float(found[name]) for name in wanted} == wanted


def test_batches_and_order_do_not_matter():
    class_scores, open_score, target = _world(2)
    whole, parts = OpenWorldReport(C, NEW), OpenWorldReport(C, NEW)
    whole.update(class_scores, open_score, target)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(1))
    for rows in order.split(17):
        parts.update(class_scores[rows], open_score[rows], target[rows])
    one, several = whole.compute(), parts.compute()
    assert one.keys() == several.keys()
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, msg=name)


def test_a_reversed_score_with_its_direction_gives_the_same_report():
    class_scores, open_score, target = _world(3)
    one, other = OpenWorldReport(C, NEW), OpenWorldReport(C, NEW, higher_is="out")
    one.update(class_scores, open_score, target)
    other.update(class_scores, -open_score, target)
    first, second = one.compute(), other.compute()
    assert float(first.pop("open_set/threshold@known_recall")) == -float(second.pop("open_set/threshold@known_recall"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=name)


def test_multilabel_measures_are_those_of_the_known_samples():
    g = torch.Generator().manual_seed(4)
    target = (torch.rand(60, C, generator=g) < 0.3).long()
    target[:15] = 0
    scores, open_score = torch.randn(60, C, generator=g) + target, torch.randn(60, generator=g)
    report = OpenWorldReport(C, task="multilabel", k=(2,))
    report.update(scores, open_score, target)
    found = report.compute()
    known = target.any(1)
    expected = multilabel_ranking_metrics(scores[known], target[known], (2,))
    for name in ("precision@2", "ndcg@2", "ranking_loss", "coverage"):
        assert float(found[f"multilabel/{name}"]) == pytest.approx(float(expected[name]), abs=1e-6)
    assert float(found["multilabel/tkpr@2"]) == pytest.approx(float(tkpr(scores[known], target[known], 2)), abs=1e-6)
    assert float(found["novelty/auroc"]) == pytest.approx(roc_auc_score(known.numpy(), open_score.numpy()))
    assert not any(name.startswith("open_set/") for name in found)
    of_floats = OpenWorldReport(C, task="multilabel", k=(2,))
    of_floats.update(scores, open_score, target.float())
    assert of_floats.compute() == found


def test_a_known_sample_without_labels_can_be_said_to_be_known():
    report = OpenWorldReport(2, task="multilabel", k=1)
    scores, target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.2]]), torch.tensor([[1, 0], [0, 0], [0, 0]])
    report.update(scores, torch.tensor([0.9, 0.8, 0.1]), target, torch.tensor([False, False, True]))
    assert report.open_scores()[1].tolist() == [True, True, False]
    assert float(report.compute()["novelty/auroc"]) == 1


def test_without_unknown_samples_what_needs_them_is_nan_or_raises():
    scores, target = torch.randn(8, 3), torch.arange(8) % 3
    report = OpenWorldReport(3)
    report.update(scores, scores.amax(1), target)
    with pytest.warns(UserWarning, match="without unknown samples"):
        found = report.compute()
    assert math.isnan(found["open_set/open_auc"])
    assert math.isnan(found["novelty/auroc"])
    assert not math.isnan(found["closed_set/accuracy"])
    strict = OpenWorldReport(3, on_undefined="raise")
    strict.update(scores, scores.amax(1), target)
    with pytest.raises(ValueError, match="without unknown samples"):
        strict.compute()


@pytest.mark.parametrize("settings", [{}, {"num_new_classes": 2}, {"task": "multilabel"}])
def test_a_report_that_saw_nothing_has_the_names_of_one_that_did(settings):
    report = OpenWorldReport(3, **settings)
    with pytest.warns(UserWarning, match="before the ``update``"):
        found = report.compute()
    with pytest.raises(ValueError, match="has seen no samples"):
        report.open_scores()
    target = torch.tensor([0, 1, 2, -1, 3 if report.num_new_classes else -1])
    if report.task == "multilabel":
        target = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 0]])
    report.update(torch.randn(5, 3 + report.num_new_classes), torch.arange(5.0), target)
    assert found.keys() == report.compute().keys()
    assert all(value.isnan() for value in found.values())


def test_the_report_survives_saving():
    class_scores, open_score, target = _world(5)
    report = OpenWorldReport(C, NEW)
    report.persistent(True)
    report.update(class_scores, open_score, target)
    again = OpenWorldReport(C, NEW)
    again.persistent(True)
    again.load_state_dict(report.state_dict())
    again._update_count = 1
    for name, value in report.compute().items():
        torch.testing.assert_close(again.compute()[name], value, msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_scores": torch.randn(4, 2)}, "class_scores"),
        ({"target": torch.tensor([0, 1, 3, -1])}, "the value 3"),
        ({"target": torch.eye(4, 3).long()}, "target must have shape"),
        ({"is_unknown": torch.tensor([True, False, False, True])}, "has a known class"),
        ({"is_unknown": torch.tensor([False, False, False, False])}, "must be marked"),
    ],
)
def test_bad_input_is_named(change, message, plain_inputs):
    good = {"class_scores": torch.randn(4, 3), "open_score": torch.randn(4), "target": torch.tensor([0, 1, 2, -1])}
    with pytest.raises(ValueError, match=message):
        OpenWorldReport(3).update(**{**good, **change})


def test_settings_that_do_not_go_together_are_named():
    with pytest.raises(ValueError, match="k=4"):
        OpenWorldReport(3, k=4)
    with pytest.raises(ValueError, match="multiclass"):
        OpenWorldReport(3, 1, task="multilabel")


def test_each_example_fools_one_measure_and_not_the_other():
    found = fooled_measures()
    assert len(found) == 6
    for example in found:
        before, after = example.fooled_values
        assert after >= before, example.fooled
        assert example.coupled_values[1] < example.coupled_values[0], example.coupled
    by_name = {example.coupled: example.coupled_values for example in found}
    assert by_name["AUTKC@5"] == (1.0, pytest.approx(0.2))
