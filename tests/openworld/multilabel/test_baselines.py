import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from equipoise.core.pairs.surrogates import SURROGATES
from equipoise.openworld.multilabel.baselines import (
    AsymmetricLoss,
    LSEPLoss,
    MultilabelTopKHingeLoss,
    PairwiseRankingLoss,
)
from equipoise.openworld.multilabel.tkpr_loss import TKPRLoss


def _draw(seed=0):
    g = torch.Generator().manual_seed(seed)
    target = (torch.rand(5, 6, generator=g) < 0.4).long()
    target[0], target[1] = 0, 1
    mask = torch.rand(5, 6, generator=g) < 0.8
    return torch.randn(5, 6, generator=g, dtype=torch.float64), target, mask


def _sides(logits, target, mask):
    for row, y, known in zip(logits, target, mask, strict=True):
        yield row[known & (y == 1)], row[known & (y == 0)]


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_pairs_and_their_log_sum_exp_are_double_loops(surrogate):
    logits, target, mask = _draw()
    means, sums = [], []
    for p, q in _sides(logits, target, mask):
        if len(p) and len(q):
            t = p[:, None] - q
            means.append(SURROGATES[surrogate].value(t, 1.0).mean())
            sums.append((1 + (-t).exp().sum()).log())
    torch.testing.assert_close(PairwiseRankingLoss(surrogate)(logits, target, mask), torch.stack(means).mean())
    torch.testing.assert_close(LSEPLoss()(logits, target, mask), torch.stack(sums).mean())


def test_the_hinge_looks_at_the_first_label_below_the_top():
    logits, target, mask = _draw()
    losses = []
    for p, q in _sides(logits, target, mask):
        everyone = torch.cat([p, q]).sort(descending=True).values
        if len(p) and len(everyone) > 2:
            losses.append((1 + everyone[2] - p.min()).clamp_min(0))
    torch.testing.assert_close(MultilabelTopKHingeLoss(2)(logits, target, mask), torch.stack(losses).mean())
    with pytest.raises(ValueError, match="k=6 must be at most 5"):
        MultilabelTopKHingeLoss(6)(logits, target)


def test_the_asymmetric_loss_is_its_formula_and_cross_entropy_without_weights():
    logits, target, _ = _draw()
    p = logits.sigmoid()
    q = (p - 0.05).clamp_min(0)
    wanted = torch.where(target == 1, -(1 - p) * p.log(), -(q**4) * (1 - q).log()).mean()
    torch.testing.assert_close(AsymmetricLoss()(logits, target), wanted)
    plain = binary_cross_entropy_with_logits(logits, target.double())
    torch.testing.assert_close(AsymmetricLoss(0, 0, 0)(logits, target), plain)
    with pytest.raises(ValueError, match="0 or at least 1"):
        AsymmetricLoss(gamma_neg=0.5)


@pytest.mark.parametrize("marked", [torch.nan, -1.0, 7.0])
@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (PairwiseRankingLoss, {}),
        (LSEPLoss, {}),
        (MultilabelTopKHingeLoss, {"k": 2}),
        (AsymmetricLoss, {}),
        (TKPRLoss, {"k": 2}),
        (TKPRLoss, {"k": 2, "comparators": "all"}),
    ],
)
def test_a_marked_label_is_one_outside_the_mask(make, settings, marked):
    logits, target, mask = _draw()
    given = torch.where(mask, target.double(), marked)
    option = {} if given.isnan().any() else {"ignore_index": int(marked)}
    wanted, found = make(**settings), make(**settings, **option)
    torch.testing.assert_close(found(logits, given), wanted(logits, target, mask), rtol=0, atol=0)
    if option:
        other = torch.ones_like(mask)
        other[2:4, 0] = False
        torch.testing.assert_close(found(logits, given, other), wanted(logits, target, mask & other), rtol=0, atol=0)
        with pytest.raises(ValueError, match="target holds the value"):
            wanted(logits, given)
    with pytest.raises(ValueError, match="ignore_index=0 is a label"):
        make(**settings, ignore_index=0)
