import pytest
import torch

from equipoise.core.phases import WarmUp
from equipoise.ranking import AUPRCLoss, pairwise_auc_loss, partial_auc_loss
from equipoise.training import OBJECTIVES, make_objective
from equipoise.training.objectives import CrossEntropy, weighs_samples

_BOUNDS = {"max_fpr": 0.2, "min_tpr": 0.3}


def _batch(n=60):
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(n, generator=generator) < 0.3).long()
    return torch.randn(n, generator=generator), target


@pytest.mark.parametrize("name", [name for name, o in OBJECTIVES.items() if o.binary])
def test_every_objective_pushes_positives_up_and_negatives_down(name):
    logits, target = _batch()
    loss = make_objective(name, num_classes=2, class_counts=[42, 18], total_epochs=10, **_BOUNDS)
    if isinstance(loss, AUPRCLoss):
        # The spread of a class is the same wherever the class lies.
        loss.semi_variance_weight = 0.0
    for epoch in (0, 9):
        for part in loss.modules():
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch, 10)
        leaf = logits.clone().requires_grad_()
        loss(leaf, target).backward()
        assert leaf.grad[target == 1].sum() < 0 < leaf.grad[target == 0].sum()


@pytest.mark.parametrize("name", [name for name, o in OBJECTIVES.items() if o.multiclass])
def test_multiclass_objectives_take_a_column_a_class(name):
    logits = torch.nn.functional.normalize(torch.randn(30, 3)).requires_grad_()
    make_objective(name, num_classes=3, class_counts=[10, 10, 10])(logits, torch.arange(30) % 3).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


def test_partial_objectives_rank_all_pairs_first():
    logits, target = _batch()
    loss = make_objective("partial_auc", num_classes=2, class_counts=[42, 18], max_fpr=0.2, total_epochs=20)
    assert loss(logits, target) == pairwise_auc_loss(logits, target)
    loss.set_epoch(3)
    assert loss(logits, target) == pairwise_auc_loss(logits, target)
    loss.set_epoch(4)
    assert loss(logits, target) == partial_auc_loss(logits, target, max_fpr=0.2)


def test_one_way_and_two_way_differ_by_the_positives():
    logits, target = _batch()
    request = {"num_classes": 2, "class_counts": [42, 18], "total_epochs": 1, **_BOUNDS}
    one, two = (make_objective(name, **request) for name in ("partial_auc", "two_way_partial_auc"))
    one.set_epoch(1)
    two.set_epoch(1)
    assert one(logits, target) == partial_auc_loss(logits, target, max_fpr=0.2)
    assert two(logits, target) == partial_auc_loss(logits, target, max_fpr=0.2, min_tpr=0.3)


def test_weighted_cross_entropy_gives_every_class_the_same_say():
    loss = make_objective("weighted_cross_entropy", num_classes=2, class_counts=[90, 10])
    leaf = torch.zeros(100, requires_grad=True)
    loss(leaf, (torch.arange(100) < 10).long()).backward()
    assert leaf.grad[:10].sum().item() == pytest.approx(-leaf.grad[10:].sum().item())


def test_cross_entropy_is_the_same_in_both_shapes():
    logits, target = _batch()
    weight = [0.5, 2.0]
    two = torch.stack([torch.zeros_like(logits), logits], 1)
    torch.testing.assert_close(CrossEntropy(weight)(logits, target), CrossEntropy(weight)(two, target))


def test_cross_entropy_weighs_in_the_precision_of_the_logits():
    logits, target = _batch()
    logits, weight = logits.double(), [0.1, 0.7]
    losses = torch.nn.functional.softplus(torch.where(target == 1, -logits, logits))
    wanted = (losses * torch.tensor(weight, dtype=torch.float64)[target.long()]).mean()
    torch.testing.assert_close(CrossEntropy(weight)(logits, target), wanted, rtol=1e-14, atol=0)
    assert CrossEntropy(weight)(logits.half(), target).dtype is torch.float32


def test_the_warm_up_reads_the_clock():
    loss = WarmUp(CrossEntropy(), CrossEntropy([0.0, 0.0]), epochs=2)
    logits, target = _batch()
    values = []
    for epoch in range(4):
        loss.set_epoch(epoch)
        values.append(loss(logits, target).item() > 0)
    assert values == [True, True, False, False]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_that_says_so_takes_weights_in_every_phase(name):
    """A weight of two is a sample given twice, and of zero none; no other objective takes any."""
    classes = 2 if OBJECTIVES[name].binary else 3
    loss = make_objective(name, num_classes=classes, class_counts=[30] * classes, total_epochs=10, **_BOUNDS)
    assert weighs_samples(loss) == OBJECTIVES[name].weighs_samples
    if not weighs_samples(loss):
        return
    logits, target = _batch()
    times = torch.arange(60) % 4
    for epoch in (0, 9):
        for part in loss.modules():
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch, 10)
        given = logits.repeat_interleave(times), target.repeat_interleave(times)
        torch.testing.assert_close(loss(logits, target, sample_weight=times.float()), loss(*given))
        torch.testing.assert_close(
            loss(logits, target, sample_weight=times.float()), loss(logits, target, sample_weight=times / 8)
        )


def test_cross_entropy_of_weighted_samples_reduces_as_it_says():
    logits, target = _batch()
    count = torch.rand(60, generator=torch.Generator().manual_seed(0))
    each = CrossEntropy([0.5, 2.0], "none")(logits, target)
    weighted = {r: CrossEntropy([0.5, 2.0], r)(logits, target, count) for r in ("none", "sum", "mean")}
    torch.testing.assert_close(weighted["none"], each * count)
    torch.testing.assert_close(weighted["sum"], (each * count).sum())
    torch.testing.assert_close(weighted["mean"], (each * count).sum() / count.sum())
    leaf = logits.clone().requires_grad_()
    with pytest.warns(UserWarning, match="no sample of the batch has a weight"):
        CrossEntropy()(leaf, target, torch.zeros(60)).backward()
    assert not leaf.grad.any()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("partial_auc", {"num_classes": 2}, "needs max_fpr"),
        ("two_way_partial_auc", {"num_classes": 2, "max_fpr": 0.1}, "needs min_tpr"),
        ("partial_auc", {"num_classes": 2, "max_fpr": 5}, "did you mean 0.05"),
        ("partial_auc", {"num_classes": 3, "max_fpr": 0.1}, "for two classes, got 3"),
        ("focal", {"num_classes": 2}, "objective='focal'"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(name, settings, message):
    with pytest.raises(ValueError, match=message):
        make_objective(name, class_counts=[1, 1], **settings)
