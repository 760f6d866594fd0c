import pytest
import torch

from equipoise.core.pairs.surrogates import SURROGATES
from equipoise.openworld.multilabel import tkpr_loss as topk_pairwise
from equipoise.openworld.multilabel.tkpr_loss import TKPRLoss, tkpr_loss

REDUCTIONS = ("mean", "sum", "none")


def _draw(seed=0, n=6, c=7, share=0.4, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, c, generator=g, dtype=dtype)
    target = (torch.rand(n, c, generator=g) < share).long()
    return logits, target, torch.rand(n, c, generator=g) < 0.8


def _loop(logits, target, k, mask, surrogate, comparators, normalizer, activation):
    total, count = logits.sum() * 0, 0
    for row, y, known in zip(logits, target, mask, strict=True):
        score = row.sigmoid() if activation == "sigmoid" else row
        relevant = [c for c in range(len(y)) if known[c] and y[c] == 1]
        compared = [c for c in range(len(y)) if known[c] and (comparators == "all" or y[c] == 0)]
        if not relevant or not compared:
            continue
        n, shown = len(relevant), min(len(relevant), k)
        alpha = {"one": 1, "num_relevant": n, "ideal": shown * (2 * k + 1 - shown) / (2 * k)}[normalizer]
        top = sorted(compared, key=lambda c: -float(score[c].detach()))[:k]
        for c in relevant:
            for j in top:
                total = total + SURROGATES[surrogate].value(score[c] - score[j], 1.0) / (alpha * k)
        count += 1
    return total / max(count, 1)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("comparators", ["irrelevant", "all"])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_are_those_of_the_loop(surrogate, comparators, masked, monkeypatch):
    monkeypatch.setattr(topk_pairwise, "_PIECE", 20)
    for seed, (normalizer, activation, k) in enumerate(
        [("one", "none", 1), ("num_relevant", "sigmoid", 3), ("ideal", "none", 4), ("num_relevant", "none", 7)]
    ):
        logits, target, mask = _draw(seed)
        settings = {"surrogate": surrogate, "comparators": comparators}
        settings |= {"normalizer": normalizer, "activation": activation}
        mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
        found = tkpr_loss(mine, target, k=k, mask=mask if masked else None, **settings)
        wanted = _loop(theirs, target, k, mask if masked else torch.ones_like(mask), **settings)
        torch.testing.assert_close(found, wanted)
        found.backward()
        wanted.backward()
        torch.testing.assert_close(mine.grad, theirs.grad)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_gradients_are_those_of_finite_differences(surrogate):
    logits, target, _ = _draw(1, n=3)
    for reduction in REDUCTIONS:
        loss = TKPRLoss(2, surrogate, reduction=reduction)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, target), logits.requires_grad_())


def test_second_derivatives_are_refused():
    logits, target, _ = _draw()
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(tkpr_loss(logits, target), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="first-order"):
        gradient.sum().backward()


def test_a_sample_without_relevant_or_irrelevant_labels_does_not_count():
    logits, target, _ = _draw()
    target[0], target[1] = 0, 1
    torch.testing.assert_close(tkpr_loss(logits, target), tkpr_loss(logits[2:], target[2:]))
    each = tkpr_loss(logits, target, reduction="none")
    assert each.shape == (6,)
    assert float(each[:2].abs().sum()) == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_without_any_sample_that_counts_the_loss_is_zero_with_a_graph(reduction):
    logits = torch.randn(2, 3, requires_grad=True)
    with pytest.warns(UserWarning, match="TKPR loss is zero"):
        loss = tkpr_loss(logits, torch.tensor([[0, 0, 0], [1, 1, 1]]), k=2, reduction=reduction)
    loss.sum().backward()
    assert float(loss.detach().sum()) == 0
    assert float(logits.grad.abs().sum()) == 0


def test_targets_outside_the_mask_are_not_looked_at():
    logits, target, mask = _draw()
    wanted = tkpr_loss(logits, target, mask=mask)
    for unknown in (-1, torch.nan):
        other = torch.where(mask, target, unknown)
        assert tkpr_loss(logits, other, mask=mask).equal(wanted)
    assert tkpr_loss(logits, other).equal(wanted)
    with pytest.raises(ValueError, match=r"target holds the value -1, wanted 0 .* by NaN or ignore_index"):
        tkpr_loss(logits, torch.where(mask, target, -1))


def test_a_shift_of_the_logits_changes_nothing_and_columns_may_be_permuted():
    logits, target, _ = _draw()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    for surrogate in SURROGATES:
        value = tkpr_loss(logits, target, surrogate=surrogate)
        torch.testing.assert_close(tkpr_loss(logits + 1e4, target, surrogate=surrogate), value, rtol=1e-6, atol=0)
        torch.testing.assert_close(tkpr_loss(logits[:, order], target[:, order], surrogate=surrogate), value)


def test_the_slopes_of_extreme_logits_are_finite_and_the_exponential_warns():
    logits, target = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True), torch.tensor([[1, 0, 0]])
    for surrogate in ("logistic", "square", "hinge", "squared_hinge"):
        (gradient,) = torch.autograd.grad(tkpr_loss(logits, target, k=2, surrogate=surrogate), logits)
        assert bool(gradient.isfinite().all())
    with pytest.warns(UserWarning, match="exceeds exp"):
        tkpr_loss(logits.detach(), target, k=2, surrogate="exponential")


def test_a_list_is_not_longer_than_there_are_labels(plain_inputs):
    logits, target, _ = _draw()
    with pytest.raises(ValueError, match="k=8 must be at most 7"):
        tkpr_loss(logits, target, k=8)


def test_the_module_shows_its_settings():
    assert "k=2, surrogate=hinge" in repr(TKPRLoss(2, "hinge"))
