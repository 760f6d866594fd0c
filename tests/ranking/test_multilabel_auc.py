"""Multi-label AUC against loops over pairs, its unknown labels, limits, and degenerate batches."""

import pytest
import torch

from equipoise.core.pairs.surrogates import SURROGATES
from equipoise.ranking import MultilabelAUCLoss, auroc, multiclass_auc_loss, multilabel_auc_loss, pairwise_auc_loss


def _draw(seed=0, n=14, labels=5):
    """Scores with ties, a target, which labels are known, and weights; the last label is in every sample."""
    g = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(n, labels, generator=g, dtype=torch.float64)).round() / 2
    target = (torch.rand(n, labels, generator=g) < 0.4).long()
    target[0], target[1], target[:, -1] = 1, 0, 1
    mask = torch.rand(n, labels, generator=g) < 0.8
    mask[:2] = True
    return logits, target, mask, torch.rand(n, generator=g, dtype=torch.float64)


def _by_loops(logits, target, mask, surrogate, margin, weight):
    values = []
    for c in range(logits.shape[1]):
        total, pairs = 0.0, 0.0
        for p in range(len(logits)):
            for q in range(len(logits)):
                if mask[p, c] and mask[q, c] and target[p, c] == 1 and target[q, c] == 0:
                    each = weight[p] * weight[q]
                    total = total + each * SURROGATES[surrogate].value(logits[p, c] - logits[q, c], margin)
                    pairs += each
        if pairs:
            values.append(total / pairs)
    return torch.stack(values).mean()


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_loops_over_pairs(surrogate, weighted):
    logits, target, mask, weight = _draw()
    logits = logits + 0.01 * torch.arange(70).reshape(14, 5)  # no pair at a kink
    option = {"sample_weight": weight} if weighted else {}
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    found = multilabel_auc_loss(ours, target, mask=mask, surrogate=surrogate, margin=0.7, **option)
    wanted = _by_loops(theirs, target, mask, surrogate, 0.7, weight if weighted else torch.ones(14))
    torch.testing.assert_close(found, wanted)
    found.backward()
    wanted.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    # Nothing is learned from the label that all samples have, nor at labels that are unknown.
    assert (ours.grad[:, -1] == 0).all()
    assert (ours.grad[~mask] == 0).all()


@pytest.mark.parametrize("marked", [torch.nan, -1, 7])
def test_a_marked_label_is_one_outside_the_mask(marked):
    logits, target, mask, _ = _draw(1)
    given = torch.where(mask, target.double(), marked)
    option = {} if given.isnan().any() else {"ignore_index": marked}
    wanted = multilabel_auc_loss(logits, target, mask=mask)
    torch.testing.assert_close(multilabel_auc_loss(logits, given, **option), wanted, rtol=0, atol=0)
    torch.testing.assert_close(MultilabelAUCLoss(**option)(logits, given), wanted, rtol=0, atol=0)
    torch.testing.assert_close(MultilabelAUCLoss()(logits, target, mask), wanted, rtol=0, atol=0)
    if option:
        whole = given.long()
        torch.testing.assert_close(multilabel_auc_loss(logits, whole, **option), wanted, rtol=0, atol=0)


def test_one_label_is_the_binary_loss_and_exclusive_ones_are_one_against_the_rest():
    logits, target, _, weight = _draw(2)
    column, of_column = logits[:, :1], target[:, :1]
    torch.testing.assert_close(
        multilabel_auc_loss(column, of_column, sample_weight=weight),
        pairwise_auc_loss(column[:, 0], of_column[:, 0], sample_weight=weight),
    )
    kind = torch.arange(14) % 5
    torch.testing.assert_close(
        multilabel_auc_loss(logits, torch.nn.functional.one_hot(kind, 5)),
        multiclass_auc_loss(logits, kind, surrogate="squared_hinge", average="ovr"),
    )


def test_the_logistic_loss_of_large_scores_is_that_of_the_pairs_in_the_wrong_order():
    logits, target, _, _ = _draw(3)
    logits = logits + 0.01 * torch.arange(70).reshape(14, 5)  # no ties
    found = multilabel_auc_loss(1e6 * logits[:, :4], target[:, :4], surrogate="logistic") / 1e6
    difference = [
        (column[y == 0] - column[y == 1][:, None]).clamp_min(0).mean()
        for column, y in zip(logits[:, :4].T, target[:, :4].T, strict=True)
    ]
    torch.testing.assert_close(found, torch.stack(difference).mean(), rtol=1e-4, atol=1e-9)
    # With separated columns both are at their best.
    perfect = target[:, :4].double() * 10
    assert float(multilabel_auc_loss(perfect, target[:, :4])) == 0
    assert (auroc(perfect, target[:, :4]) == 1).all()


def test_a_rare_label_counts_like_any_other_and_scales_of_columns_do_not_mix():
    logits = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 4.0], [3.0, 3.0]])
    target = torch.tensor([[1, 1], [0, 1], [0, 0], [0, 0]])
    by_hand = ((1 + 1) ** 2 + (1 + 2) ** 2 + (1 + 3) ** 2) / 3, 0.0
    assert float(multilabel_auc_loss(logits, target)) == pytest.approx(sum(by_hand) / 2)
    shifted = logits + torch.tensor([100.0, -3.0])
    torch.testing.assert_close(multilabel_auc_loss(shifted, target), multilabel_auc_loss(logits, target))


def test_a_weight_of_two_is_a_sample_given_twice():
    logits, target, mask, _ = _draw(4)
    times = torch.arange(14) % 3
    repeated = torch.arange(14).repeat_interleave(times)
    torch.testing.assert_close(
        multilabel_auc_loss(logits, target, mask=mask, sample_weight=times.double()),
        multilabel_auc_loss(logits[repeated], target[repeated], mask=mask[repeated]),
    )


@pytest.mark.parametrize("kind", ["none", "all", "unknown", "weightless"])
def test_without_a_label_of_both_kinds_it_is_an_attached_zero(kind):
    logits, target, _, _ = _draw()
    logits.requires_grad_()
    given = {"none": 0 * target, "all": target.clamp_min(1), "unknown": torch.full_like(logits, torch.nan).detach()}
    option = {"sample_weight": torch.zeros(14)} if kind == "weightless" else {}
    with pytest.warns(UserWarning, match="no label has both a sample with it and one without it"):
        value = multilabel_auc_loss(logits, given.get(kind, target), **option)
    value.backward()
    assert value.item() == 0
    assert (logits.grad == 0).all()


def test_half_precision_and_extreme_logits_are_finite():
    _, target, _, _ = _draw()
    for dtype in (torch.float16, torch.bfloat16):
        logits = (300 * torch.randn(14, 5, generator=torch.Generator().manual_seed(0))).to(dtype)
        value = multilabel_auc_loss(logits, target)
        assert value.dtype == torch.float32
        assert value.isfinite()


def test_bad_input_is_named(plain_inputs):
    logits, target, _, _ = _draw()
    with pytest.raises(ValueError, match="target holds the value 2"):
        multilabel_auc_loss(logits, target + 1)
    with pytest.raises(ValueError, match="ignore_index=1 is a label"):
        MultilabelAUCLoss(ignore_index=1)
    with pytest.raises(ValueError, match="labels"):
        multilabel_auc_loss(logits, target[:, :4])
