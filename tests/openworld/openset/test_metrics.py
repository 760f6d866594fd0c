import math

import pytest
import torch
from sklearn.metrics import f1_score

from equipoise.openworld.openset.confusion import (
    normalized_accuracy,
    open_set_confusion,
    open_set_curve,
    open_set_f1,
    youden_index,
)
from equipoise.openworld.openset.open_auc import open_auc, open_set_classification_curve
from equipoise.openworld.prompts.openworld_auc import (
    harmonic_mean_accuracy,
    openworld_auc,
    openworld_curve,
    overall_accuracy,
)


def _world(seed, n_known=13, n_unknown=9, num_classes=4):
    g = torch.Generator().manual_seed(seed)
    return {
        "known_pred": torch.randint(num_classes, (n_known,), generator=g),
        "known_target": torch.randint(num_classes, (n_known,), generator=g),
        "known_scores": torch.randint(-4, 6, (n_known,), generator=g).double() / 2,
        "unknown_pred": torch.randint(num_classes, (n_unknown,), generator=g),
        "unknown_scores": torch.randint(-6, 4, (n_unknown,), generator=g).double() / 2,
    }


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("ties", "half"), [("half", 0.5), ("strict", 0.0)])
def test_openauc_counts_pairs(seed, ties, half):
    w = _world(seed)
    right = w["known_pred"] == w["known_target"]
    total = sum(
        bool(c) * ((a > b) + half * (a == b))
        for a, c in zip(w["known_scores"].tolist(), right, strict=True)
        for b in w["unknown_scores"].tolist()
    )
    value = open_auc(w["known_scores"], w["unknown_scores"], right, ties=ties)
    assert float(value) == pytest.approx(total / (13 * 9), abs=1e-12)
    turned = open_auc(-w["known_scores"], -w["unknown_scores"], right.long(), ties=ties, higher_is="out")
    assert float(turned) == float(value)


@pytest.mark.parametrize("seed", range(4))
def test_openauc_is_the_area_under_its_curve_and_ends_at_the_accuracy(seed):
    w = _world(seed)
    right = w["known_pred"] == w["known_target"]
    x, y = open_set_classification_curve(w["known_scores"], w["unknown_scores"], right)
    assert float(torch.trapezoid(y, x)) == pytest.approx(float(open_auc(w["known_scores"], w["unknown_scores"], right)))
    assert (float(x[-1]), float(y[-1])) == pytest.approx((1.0, float(right.double().mean())))


def test_openauc_is_accuracy_times_the_auc_of_the_correct_and_auroc_where_all_are_right():
    known, unknown = torch.randn(50).double(), torch.randn(40).double()
    right = torch.rand(50) < 0.6
    everyone = torch.ones(50, dtype=torch.bool)
    part = open_auc(known[right], unknown, right[right])
    assert float(open_auc(known, unknown, right)) == pytest.approx(float(part * right.double().mean()), abs=1e-12)
    wrong = open_auc(known, unknown, ~right)
    assert float(open_auc(known, unknown, everyone)) == pytest.approx(float(open_auc(known, unknown, right) + wrong))
    assert float(open_auc(known, unknown, ~everyone)) == 0


def test_huge_scores_and_infinities_do_not_break_openauc():
    """A sentinel above the highest unknown score, as the authors' code puts it, is lost in rounding near 1e13."""
    known, unknown = torch.tensor([-1e13, -2e13]), torch.tensor([-1e13, -3e13])
    assert float(open_auc(known, unknown, torch.tensor([False, True]))) == 0.25
    assert float(open_auc(torch.tensor([math.inf]), torch.tensor([-math.inf]), torch.tensor([True]))) == 1


def _confusion(w, threshold, num_classes=4, higher_is="in"):
    return open_set_confusion(**w, threshold=threshold, num_classes=num_classes, higher_is=higher_is)


@pytest.mark.parametrize("seed", range(6))
def test_the_curve_holds_every_measure_at_every_threshold(seed):
    w = _world(seed)
    curve = open_set_curve(**w, num_classes=4)
    cuts = [math.inf, *sorted({*w["known_scores"].tolist(), *w["unknown_scores"].tolist()}, reverse=True)]
    assert curve.thresholds.tolist() == cuts
    for k, cut in enumerate(cuts):
        matrix = _confusion(w, cut)
        accepted = float((w["known_scores"] >= cut).double().mean())
        assert [float(getattr(curve, name)[k]) for name in list(curve.__dataclass_fields__)[1:]] == pytest.approx(
            [
                float(normalized_accuracy(matrix, 1.0)),
                accepted,
                float(normalized_accuracy(matrix, 0.0)),
                float(open_set_f1(matrix)),
                float(open_set_f1(matrix, "micro")),
                float(youden_index(matrix)),
                float(youden_index(matrix, "micro")),
                float(normalized_accuracy(matrix)),
            ],
            abs=1e-12,
        )
    outward = {name: -value if name.endswith("scores") else value for name, value in w.items()}
    other = open_set_curve(**outward, num_classes=4, higher_is="out")
    assert torch.equal(other.thresholds, -curve.thresholds)
    assert torch.equal(other.f1_macro, curve.f1_macro)
    best, value = other.best("f1_macro")
    assert float(open_set_f1(_confusion(outward, best, higher_is="out"))) == pytest.approx(value)


def test_a_curve_of_one_class_has_no_negatives_but_unknown_ones():
    w = _world(0, num_classes=1)
    curve = open_set_curve(**w, num_classes=1)
    assert float(curve.youden_macro[-1]) == pytest.approx(float(youden_index(_confusion(w, -math.inf, 1))))


def test_micro_f1_pools_counts_as_scikit_learn_does():
    w = _world(3)
    rejected = torch.cat([w["known_scores"], w["unknown_scores"]]) < 0.5
    pred = torch.cat([w["known_pred"], w["unknown_pred"]]).masked_fill(rejected, 4)
    target = torch.cat([w["known_target"], torch.full((9,), 4)])
    expected = f1_score(target, pred, labels=[0, 1, 2, 3], average="micro")
    assert float(open_set_f1(_confusion(w, 0.5), "micro")) == pytest.approx(expected)


def test_the_f_score_does_not_see_an_unknown_taken_in_for_a_known_turned_away():
    """The first counter-example of the paper: TP, FP and FN of the known classes stay as they are."""
    known, unknown = torch.tensor([0, 1]), torch.tensor([1])
    one = {"known_pred": torch.tensor([0, 1]), "known_target": torch.tensor([0, 0]), "unknown_pred": unknown}
    before = open_set_confusion(
        **one, known_scores=torch.ones(2), unknown_scores=torch.zeros(1), threshold=0.5, num_classes=2
    )
    after = open_set_confusion(
        **one, known_scores=torch.tensor([1.0, 0.0]), unknown_scores=torch.ones(1), threshold=0.5, num_classes=2
    )
    assert len(known) == 2
    for average in ("macro", "micro"):
        assert float(open_set_f1(before, average)) == float(open_set_f1(after, average))
    right = torch.tensor([True, False])
    assert float(open_auc(torch.ones(2), torch.zeros(1), right)) == 0.5
    assert float(open_auc(torch.tensor([1.0, 0.0]), torch.ones(1), right)) == 0.25


def test_openworldauc_counts_pairs_that_are_right_three_times():
    g = torch.Generator().manual_seed(0)
    base, new = (torch.randint(0, 6, (n,), generator=g).double() for n in (11, 7))
    base_right, new_right = (torch.rand(n, generator=g) < 0.7 for n in (11, 7))
    total = sum(
        bool(p and q) * ((a > b) + 0.5 * (a == b))
        for a, p in zip(base.tolist(), base_right, strict=True)
        for b, q in zip(new.tolist(), new_right, strict=True)
    )
    assert float(openworld_auc(base, new, base_right, new_right)) == pytest.approx(total / 77, abs=1e-12)
    again = openworld_auc(base, new.repeat(10), base_right, new_right.repeat(10))
    assert float(again) == pytest.approx(total / 77, abs=1e-12)
    assert float(openworld_auc(base, new, base_right, torch.zeros(7).long())) == 0
    assert float(openworld_auc(-base, -new, base_right, new_right, higher_is="out")) == pytest.approx(total / 77)


def test_a_wrong_base_and_a_wrong_new_sample_make_no_pair_even_if_all_scores_are_upside_down():
    """Sentinel scores, as the authors' code puts them, count such a pair."""
    assert float(openworld_auc(torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([0]), torch.tensor([0]))) == 0


def test_the_harmonic_mean_and_overall_accuracy():
    assert harmonic_mean_accuracy(0.0, 0.0) == 0
    assert harmonic_mean_accuracy(0.5, 1.0) == pytest.approx(2 / 3)
    logits = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0.5, 1.0]])
    assert float(overall_accuracy(logits, torch.tensor([0, 2, 2]))) == pytest.approx(2 / 3)


def test_narrow_and_boolean_classes_are_classes_and_no_masks():
    w = _world(8, num_classes=2)
    wanted, curve = _confusion(w, 0.5, 2), open_set_curve(**w, num_classes=2)
    for dtype in (torch.bool, torch.uint8):
        narrow = {name: x if name.endswith("scores") else x.to(dtype) for name, x in w.items()}
        assert _confusion(narrow, 0.5, 2).equal(wanted)
        found = open_set_curve(**narrow, num_classes=2)
        assert all(getattr(found, name).equal(getattr(curve, name)) for name in curve.__dataclass_fields__)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_says_what_to_mend():
    known, unknown, right = torch.rand(3), torch.rand(2), torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="known_correct must have shape"):
        open_auc(known, unknown, right[:2])
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=f"known_target holds the value {wrong}, wanted class indices from 0"):
            _confusion(_world(0) | {"known_target": torch.full((13,), wrong)}, 0.0)
    with pytest.raises(ValueError, match=r"shape \(C \+ 1, C \+ 1\)"):
        open_set_f1(torch.ones(1, 1).long())
    with pytest.raises(ValueError, match="measure='thresholds'"):
        open_set_curve(**_world(0), num_classes=4).best("thresholds")


def test_the_area_under_the_hit_and_miss_curve_is_openworld_auc():
    generator = torch.Generator().manual_seed(5)
    for size in (1, 4, 40):
        base, new = (torch.randint(0, 6, (size,), generator=generator).float() for _ in range(2))
        right = [torch.randint(0, 2, (size,), generator=generator) for _ in range(2)]
        for side in ("in", "out"):
            miss, hit = openworld_curve(base, new, *right, higher_is=side)
            area = torch.trapezoid(hit, miss)
            torch.testing.assert_close(area, openworld_auc(base, new, *right, higher_is=side))
            assert miss[0] == 1 - right[0].double().mean()
            assert miss[-1] == 1
            assert hit[-1] == right[1].double().mean()
            assert bool((miss.diff() >= 0).all())
            assert bool((hit.diff() >= 0).all())
