import pytest
import torch
from torch import nn

from equipoise.recsys import InterestSelector, interest_pooling
from equipoise.recsys.interests.selection import EvenSelector, pooled

DOUBLE = {"dtype": torch.float64}


def _batch(seed=0, n=5, t=6, d=3):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([t, 3, 0, 1, 4][:n])
    behavior = torch.randn(n, t, d, generator=generator, **DOUBLE)
    logit = torch.randn(n, t, generator=generator, **DOUBLE)
    return behavior, logit, torch.arange(t) < lengths[:, None], torch.randn(n, d, generator=generator, **DOUBLE)


def _by_definition(behavior, logit, mask, normalization):
    rows = []
    for vectors, scores, there in zip(behavior, logit, mask, strict=True):
        total = torch.zeros(behavior.shape[2], **DOUBLE)
        kept = [k for k in range(len(scores)) if there[k]]
        for k in kept:
            if normalization == "sigmoid":
                weight = 1 / (1 + torch.exp(-scores[k]))
            else:
                weight = torch.exp(scores[k]) / sum(torch.exp(scores[other]) for other in kept)
            total = total + weight * vectors[k]
        rows.append(total)
    return torch.stack(rows)


@pytest.mark.parametrize("normalization", ["sigmoid", "softmax"])
def test_pooling_is_its_definition(normalization):
    behavior, logit, mask, _ = _batch()
    found = interest_pooling(behavior, logit, mask, normalization)
    torch.testing.assert_close(found, _by_definition(behavior, logit, mask, normalization))
    assert found[2].eq(0).all()


@pytest.mark.parametrize("normalization", ["sigmoid", "softmax"])
def test_gradients_are_those_by_finite_differences_of_second_order_too(normalization):
    behavior, logit, mask, _ = _batch()
    inputs = (behavior.requires_grad_(), logit.requires_grad_())
    assert torch.autograd.gradcheck(lambda b, w: interest_pooling(b, w, mask, normalization), inputs)
    assert torch.autograd.gradgradcheck(lambda b, w: interest_pooling(b, w, mask, normalization), inputs)


@pytest.mark.parametrize("normalization", ["sigmoid", "softmax"])
def test_padding_changes_nothing(normalization):
    behavior, logit, mask, _ = _batch()
    more = torch.full((5, 4, 3), 1e30, **DOUBLE), torch.full((5, 4), -50.0, **DOUBLE)
    found, gradients = [], []
    for wide in (False, True):
        leaves = [
            (torch.cat([each, extra], 1) if wide else each).clone().requires_grad_()
            for each, extra in zip((behavior, logit), more, strict=True)
        ]
        held = torch.cat([mask, torch.zeros(5, 4).bool()], 1) if wide else mask
        found.append(interest_pooling(*leaves, held, normalization))
        found[-1].square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(found[0], found[1])
    for near, far in zip(*gradients, strict=True):
        torch.testing.assert_close(near, far[:, :6])
        assert far[:, 6:].eq(0).all()
        assert near[~mask].eq(0).all()


def test_the_order_of_a_history_does_not_matter():
    behavior, logit, mask, _ = _batch()
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    for normalization in ("sigmoid", "softmax"):
        torch.testing.assert_close(
            interest_pooling(behavior[:, order], logit[:, order], mask[:, order], normalization),
            interest_pooling(behavior, logit, mask, normalization),
        )


def test_softmax_of_one_item_returns_it_and_sigmoid_may_choose_none():
    behavior, mask = torch.randn(1, 1, 3), torch.ones(1, 1).bool()
    torch.testing.assert_close(interest_pooling(behavior, torch.tensor([[-90.0]]), mask, "softmax"), behavior[:, 0])
    assert float(interest_pooling(behavior, torch.tensor([[-90.0]]), mask).abs().max()) < 1e-30


def test_extreme_logits_are_finite():
    behavior, mask = torch.ones(1, 3, 2), torch.tensor([[1, 1, 0]])
    for normalization in ("sigmoid", "softmax"):
        logit = torch.tensor([[3e38, -3e38, 3e38]], requires_grad=True)
        found = interest_pooling(behavior, logit, mask, normalization)
        found.sum().backward()
        torch.testing.assert_close(found, torch.ones(1, 2))
        assert logit.grad.isfinite().all()


def _four_blocks(selector, behavior, target, mask):
    """The selector with its first layer on [e, q, e q, e − q], on all places."""
    shown = target[:, None].expand_as(behavior)
    wide = torch.cat([behavior, shown, behavior * shown, behavior - shown], 2)
    logit = selector.rest(selector.first(wide)).squeeze(2)
    if selector.normalization == "sigmoid":
        return logit.sigmoid() * mask
    return logit.masked_fill(~mask, -1e9).softmax(1) * mask


@pytest.mark.parametrize("normalization", ["sigmoid", "softmax"])
@pytest.mark.parametrize("hidden", [(7,), (6, 4)])
def test_the_short_first_layer_is_that_of_four_blocks(normalization, hidden):
    behavior, _, mask, target = _batch()
    selector = InterestSelector(3, hidden, normalization).double()
    results = []
    for compute in (selector, lambda *batch: _four_blocks(selector, *batch)):
        leaves = [behavior.clone().requires_grad_(), target.clone().requires_grad_()]
        weights = compute(*leaves, mask)
        selector.zero_grad()
        pooled(leaves[0], weights).square().sum().backward()
        results.append([weights, *(leaf.grad for leaf in leaves), *(p.grad.clone() for p in selector.parameters())])
    for short, long in zip(*results, strict=True):
        torch.testing.assert_close(short, long)
    assert results[0][0][~mask].eq(0).all()
    assert results[0][1][~mask].eq(0).all()


def test_what_stands_in_padding_reaches_nothing():
    behavior, _, mask, target = _batch()
    behavior[~mask] = 1e300
    selector = InterestSelector(3).double()
    weights = selector(behavior, target, mask)
    weights.sum().backward()
    assert all(p.grad.isfinite().all() for p in selector.parameters())
    assert weights.isfinite().all()


def test_a_batch_of_empty_histories_has_weight_zero():
    selector = InterestSelector(3)
    weights = selector(torch.ones(2, 4, 3), torch.ones(2, 3), torch.zeros(2, 4, dtype=torch.long))
    assert weights.equal(torch.zeros(2, 4))
    weights.sum().backward()


def test_a_threshold_decides_in_evaluation_mode_only():
    behavior, _, mask, target = _batch()
    selector = InterestSelector(3, threshold=0.5).double()
    soft = selector(behavior, target, mask)
    hard = selector.eval()(behavior, target, mask)
    assert hard.equal((soft >= 0.5).double())
    assert ((soft > 0) & (soft < 1)).any()


def test_the_even_selector_takes_the_mean():
    behavior, _, mask, target = _batch()
    found = pooled(behavior, EvenSelector()(behavior, target, mask))
    for row, there in enumerate(mask):
        wanted = behavior[row, there].mean(0) if there.any() else torch.zeros(3, **DOUBLE)
        torch.testing.assert_close(found[row], wanted)


def test_it_is_saved_and_loaded(tmp_path):
    from safetensors.torch import load_file, save_file

    behavior, _, mask, target = _batch()
    one, other = (InterestSelector(3, (5, 4)).double() for _ in range(2))
    save_file(one.state_dict(), tmp_path / "selector.safetensors")
    other.load_state_dict(load_file(tmp_path / "selector.safetensors"))
    assert one(behavior, target, mask).equal(other(behavior, target, mask))


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mask": torch.full((2, 3), 0.5)}, "mask holds the value 0.5, wanted 0 .padding. or 1 .an item."),
        ({"mask": torch.ones(2, 4).long()}, r"mask must have shape \(n, t\) with .*got \(2, 4\)"),
        ({"mask": torch.full((2, 3), 2)}, "mask holds the value 2, wanted 0 .padding. or 1 .an item."),
        ({"behavior": torch.full((2, 3, 1), torch.nan)}, "behavior holds 6 NaN"),
        ({"logit": torch.full((2, 3), torch.inf)}, "logit holds 6 NaN or infinite"),
        ({"normalization": "none"}, "normalization='none' is not known"),
    ],
)
def test_bad_batches_are_refused(changes, sentence):
    good = {"behavior": torch.ones(2, 3, 1), "logit": torch.ones(2, 3), "mask": torch.ones(2, 3).bool()}
    with pytest.raises(ValueError, match=sentence):
        interest_pooling(**{**good, **changes})


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"hidden": ()}, "at least one layer"),
        ({"hidden": (0,)}, r"hidden\[0\]=0"),
        ({"threshold": 0.5, "normalization": "softmax"}, "normalization must be 'sigmoid'"),
        ({"threshold": 1.0}, "threshold=1.0 must lie in"),
        ({"dropout": 1.0}, "dropout=1.0 must lie in"),
    ],
)
def test_bad_settings_are_refused(settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        InterestSelector(3, **settings)


def test_hidden_layers_are_those_asked_for():
    widths = [layer.out_features for layer in InterestSelector(3, (7, 5)).modules() if isinstance(layer, nn.Linear)]
    assert widths == [7, 5, 1]
