"""Losses of triples: their definition, their weights, and what is drawn."""

import math

import pytest
import torch

from equipoise.knowledge import (
    LogisticNegativeLoss,
    OneVsAllCrossEntropy,
    frequency_weights,
    kg_cross_entropy,
    logistic_negative_loss,
)
from knowledge.small_models import random_triples


def _batch(n=6, entities=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n, entities, generator=generator, dtype=torch.float64)
    weight = torch.rand(entities, generator=generator, dtype=torch.float64)
    return scores, torch.randint(entities, (n,), generator=generator), weight


def test_the_cross_entropy_is_a_weighted_mean_of_log_probabilities():
    scores, target, weight = _batch()
    rows = zip(scores.tolist(), target.tolist(), strict=True)
    losses = [math.log(sum(math.exp(s) for s in row)) - row[t] for row, t in rows]
    weights = [float(weight[t]) for t in target]
    wanted = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert float(kg_cross_entropy(scores, target, weight)) == pytest.approx(wanted, rel=1e-12)
    assert float(kg_cross_entropy(scores, target)) == pytest.approx(sum(losses) / 6, rel=1e-12)
    leaf = scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: kg_cross_entropy(s, target, weight), leaf)
    # Only the proportions of the weights count, and a shift of all scores of a query changes nothing.
    torch.testing.assert_close(kg_cross_entropy(leaf, target, 7 * weight), kg_cross_entropy(leaf, target, weight))
    shifted = leaf + torch.arange(6)[:, None] * 100
    torch.testing.assert_close(kg_cross_entropy(shifted, target, weight), kg_cross_entropy(leaf, target, weight))


def test_a_target_of_weight_zero_does_not_count():
    scores, target, weight = _batch()
    weight[target[0]] = 0
    kept = target != target[0]
    wanted = kg_cross_entropy(scores[kept], target[kept], weight)
    torch.testing.assert_close(kg_cross_entropy(scores, target, weight), wanted)
    loss = OneVsAllCrossEntropy(weight.float())
    assert loss(scores, target).dtype is torch.float64
    assert list(loss.state_dict()) == ["entity_weight"]


def test_frequent_entities_weigh_more():
    triples = torch.tensor([[0, 1, 1], [0, 0, 2], [0, 0, 0], [3, 1, 2]])
    found = frequency_weights(triples, 6, low=0.2)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.4, 0.6, 0.4, 0.2, 0.2]))
    assert frequency_weights(triples, 6, low=1.0).tolist() == [1.0] * 6


def test_the_logistic_loss_is_a_mean_of_all_terms():
    generator = torch.Generator().manual_seed(1)
    positive = torch.randn(4, generator=generator, dtype=torch.float64)
    negative = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    terms = [math.log1p(math.exp(-s)) for s in positive.tolist()]
    terms += [math.log1p(math.exp(s)) for s in negative.flatten().tolist()]
    assert float(logistic_negative_loss(positive, negative)) == pytest.approx(sum(terms) / 16, rel=1e-12)
    alone = logistic_negative_loss(positive, negative[:, :0])
    assert float(alone) == pytest.approx(sum(terms[:4]) / 4, rel=1e-12)
    assert torch.autograd.gradcheck(logistic_negative_loss, (positive.requires_grad_(), negative.requires_grad_()))
    extreme = logistic_negative_loss(torch.tensor([-1e30, 1e30]), torch.tensor([[1e30], [-1e30]]))
    assert float(extreme) == pytest.approx(5e29)


@pytest.mark.parametrize("double", [False, True])
def test_negatives_are_uniform_and_repeatable(double):
    triples, loss = random_triples(2000, 7, 3), LogisticNegativeLoss(4, double)
    heads, tails = loss.draw(triples, 7, torch.Generator().manual_seed(5))
    again = loss.draw(triples, 7, torch.Generator().manual_seed(5))
    assert torch.equal(heads, again[0])
    assert torch.equal(tails, again[1])
    assert heads.shape == tails.shape == (2000, 4)
    drawn = [tails, heads] if double else [tails]
    for each in drawn:
        shares = each.flatten().bincount(minlength=7) / each.numel()
        assert float((shares - 1 / 7).abs().max()) < 0.02
    if double:
        joint = (heads * 7 + tails).flatten().bincount(minlength=49) / heads.numel()
        assert float((joint - 1 / 49).abs().max()) < 0.01
    else:
        assert torch.equal(heads, triples[:, :1].expand(-1, 4))
    none = LogisticNegativeLoss(0, double).draw(triples, 7)
    assert none[0].shape == none[1].shape == (2000, 0)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    scores, target, weight = _batch()
    for arguments, message in (
        ((scores * math.nan, target), "scores holds 30 NaN"),
        ((scores, target + 5), r"target holds the value \d, wanted class indices from 0 to 4"),
        ((scores, target, weight[:3]), "entity_weight must have shape"),
        ((scores, target, -weight), "entity_weight must be at least 0"),
        ((scores, target, weight * 0), "entity_weight is 0 for all targets of the batch"),
    ):
        with pytest.raises(ValueError, match=message):
            kg_cross_entropy(*arguments)
    with pytest.raises(ValueError, match="num_negatives=-1"):
        LogisticNegativeLoss(-1)
    with pytest.raises(ValueError, match="positive is empty"):
        logistic_negative_loss(torch.zeros(0), torch.zeros(0, 2))
    with pytest.raises(ValueError, match="negative must have shape"):
        logistic_negative_loss(torch.zeros(2), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"triples must have shape \(n, 3\)"):
        frequency_weights(torch.tensor([[0, 1]]), 3)
    with pytest.raises(ValueError, match=r"low=1\.5"):
        frequency_weights(torch.tensor([[0, 1, 0]]), 3, low=1.5)
    with pytest.raises(IndexError, match="triples holds the index 4, wanted 0 to 2"):
        frequency_weights(torch.tensor([[0, 1, 4]]), 3)
