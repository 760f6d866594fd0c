"""The contrast among predictions: brute force, bounds, invariances, gradients, a few rows at a time, and bad input."""

import gc
import math
import weakref

import pytest
import torch

from equipoise.multimodal import DCRLoss, dcr_grid_loss, dcr_loss


def _batch(size, *shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def drawn(*sizes):
        return torch.randn(*sizes, *shape, generator=generator, dtype=dtype)

    return drawn(size, size), drawn(size), drawn(size)


def _brute(pred, plus, target, tau, ids=None, weight=0.5, separate=False):
    def cosine(a, b):
        a, b = a.flatten(), b.flatten()
        return float(a @ b / (a.norm() * b.norm()))

    losses = []
    for i in range(len(pred)):
        first = math.exp(cosine(pred[i, i], plus[i]) / tau)
        true = math.exp(cosine(pred[i, i], target[i]) / tau)
        others = sum(
            math.exp(cosine(pred[i, i], pred[i, k]) / tau)
            for k in range(len(pred))
            if k != i and (ids is None or ids[k] != ids[i])
        )
        below = (first + others, true + others) if separate else (first + true + others,) * 2
        losses.append(-weight * math.log(first / below[0]) - (1 - weight) * math.log(true / below[1]))
    return torch.tensor(losses, dtype=torch.float64)


@pytest.mark.parametrize("tau", [0.1, 1.0])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("ids", [None, [0, 1, 0, 2, 1]])
def test_every_term_is_that_of_the_definition(tau, separate, weight, ids):
    batch = _batch(5, 2, 3)
    found = dcr_loss(
        *batch,
        tau,
        None if ids is None else torch.tensor(ids),
        "none",
        separate_denominators=separate,
        augmented_weight=weight,
    )
    torch.testing.assert_close(found, _brute(*batch, tau, ids, weight, separate))


def test_reductions():
    batch = _batch(4, 3)
    each = dcr_loss(*batch, reduction="none")
    torch.testing.assert_close(dcr_loss(*batch), each.mean())
    torch.testing.assert_close(dcr_loss(*batch, reduction="sum"), each.sum())


def test_the_loss_is_at_least_log_two_and_reaches_it():
    for seed in range(20):
        assert dcr_loss(*_batch(4, 3, seed=seed), reduction="none").min() > math.log(2)
    right = torch.eye(4, dtype=torch.float64)[:3]
    pred = -right[:, None].expand(3, 3, 4).clone()
    pred[torch.arange(3), torch.arange(3)] = right
    assert float(dcr_loss(pred, right, right, 0.01)) == pytest.approx(math.log(2), abs=1e-12)
    assert float(dcr_loss(pred, right, right, 0.01, separate_denominators=True)) == pytest.approx(0, abs=1e-12)


def test_sizes_of_predictions_do_not_matter():
    pred, plus, target = _batch(4, 3)
    scale = torch.rand(4, 4, 1, dtype=torch.float64) + 0.1
    wanted = dcr_loss(pred, plus, target)
    torch.testing.assert_close(dcr_loss(scale * pred, 7 * plus, 1e-3 * target), wanted)


def test_the_order_of_images_does_not_matter():
    pred, plus, target = _batch(5, 3)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(
        dcr_loss(pred[order][:, order], plus[order], target[order]), dcr_loss(pred, plus, target)
    )


def test_gradients_are_those_of_the_value_and_none_reaches_the_target():
    pred, plus, target = _batch(4, 3)
    leaves = [pred.requires_grad_(), plus.requires_grad_()]
    for options in ({}, {"separate_denominators": True, "augmented_weight": 0.2}):
        assert torch.autograd.gradcheck(lambda p, q, o=options: dcr_loss(p, q, target, **o), leaves)
    target.requires_grad_()
    dcr_loss(pred, plus, target).backward()
    assert target.grad is None


def test_detached_negatives_have_no_gradient_and_the_value_stays():
    pred, plus, target = _batch(4, 3)
    pred.requires_grad_()
    wanted = dcr_loss(pred, plus, target)
    found = dcr_loss(pred, plus, target, detach_negatives=True)
    torch.testing.assert_close(found, wanted)
    (all_of_it,) = torch.autograd.grad(wanted, pred)
    (some,) = torch.autograd.grad(found, pred)
    own = torch.eye(4, dtype=torch.bool)
    assert not some[~own].any()
    torch.testing.assert_close(some[own], all_of_it[own])
    assert all_of_it[~own].abs().sum() > 0


def test_images_that_are_the_same_are_no_negatives():
    pred, plus, target = _batch(3, 4)
    ids = torch.tensor([7, 7, 1])
    pred.requires_grad_()
    losses = dcr_loss(pred, plus, target, ids=ids, reduction="none")
    (gradient,) = torch.autograd.grad(losses[0], pred)
    assert not gradient[0, 1].any()
    assert gradient[0, 2].any()


def test_one_image_has_its_positives_alone_and_a_warning():
    pred, plus, target = _batch(1, 4)
    with pytest.warns(UserWarning, match="no image has a negative"):
        found = dcr_loss(pred, plus, target)
    torch.testing.assert_close(found, _brute(pred, plus, target, 0.1)[0])


def test_the_same_images_all_over_warn():
    with pytest.warns(UserWarning, match="no image has a negative"):
        dcr_loss(*_batch(3, 4), ids=torch.zeros(3).long())


def test_a_prediction_of_norm_zero_gives_no_nan():
    pred, plus, target = _batch(3, 4)
    pred[0, 0] = pred[1, 2] = 0.0
    plus[2] = target[1] = 0.0
    pred.requires_grad_()
    loss = dcr_loss(pred, plus, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(pred.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_at_a_small_temperature(dtype):
    half = [each.to(dtype) for each in _batch(4, 8)]
    found = dcr_loss(*half, 0.005)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found.double(), dcr_loss(*(each.double() for each in half), 0.005), rtol=1e-5, atol=1e-5)


def test_the_class_is_the_function():
    batch, ids = _batch(4, 3), torch.tensor([0, 0, 1, 2])
    loss = DCRLoss(0.3, "sum", separate_denominators=True, augmented_weight=0.1)
    wanted = dcr_loss(*batch, 0.3, ids, "sum", separate_denominators=True, augmented_weight=0.1)
    torch.testing.assert_close(loss(*batch, ids), wanted)
    assert "temperature=0.3" in repr(loss)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pred": torch.randn(3, 4, 2)}, "pred must have shape"),
        ({"pred": torch.randn(3, 3)}, r"pred_augmented must have shape \(b, \*n\)|pred_augmented"),
        ({"pred_augmented": torch.randn(3, 5)}, "pred_augmented must have shape"),
        ({"target": torch.randn(4, 2)}, "target must have shape"),
        ({"temperature": 0.0}, "temperature=0.0 must be a number greater than 0"),
        ({"temperature": -1.0}, "temperature"),
        ({"pred": torch.full((3, 3, 2), torch.nan)}, "pred holds 18 NaN"),
        ({"pred_augmented": torch.full((3, 2), torch.inf)}, "pred_augmented holds"),
        ({"augmented_weight": 1.5}, "augmented_weight=1.5 must lie in"),
        ({"reduction": "max"}, "reduction='max' is not known"),
        ({"ids": torch.zeros(2).long()}, "ids must have shape"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(change, words, plain_inputs):
    good = dict(zip(("pred", "pred_augmented", "target"), _batch(3, 2, dtype=torch.float32), strict=True))
    with pytest.raises(ValueError, match=words):
        dcr_loss(**{**good, **change})


class _Mixer(torch.nn.Module):
    """A small denoiser that mixes what it is given."""

    def __init__(self, inner=8):
        super().__init__()
        self.inside = torch.nn.Linear(5 + 4 + 1, inner).double()
        self.outside = torch.nn.Linear(inner, 5).double()

    def forward(self, noisy, steps, condition):
        both = torch.cat([noisy, steps[:, None].double() / 10, condition], 1)
        return self.outside(torch.tanh(self.inside(both)))


def _latents(size):
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(size, width, generator=generator, dtype=torch.float64) for width in (5, 4, 4, 5)]
    return drawn, torch.randint(10, (size,), generator=generator)


def _whole(model, drawn, steps, **options):
    noisy, own, view, target = drawn
    size = len(noisy)
    pred = model(noisy.repeat_interleave(size, 0), steps.repeat_interleave(size), own.repeat(size, 1)).reshape(
        size, size, -1
    )
    return dcr_loss(pred, model(noisy, steps, view), target, **options)


@pytest.mark.parametrize("rows", [None, 1, 2, 5, 9])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("ids", [None, torch.tensor([0, 1, 0, 2, 3])])
def test_a_few_rows_at_a_time_give_the_loss_and_the_gradient_of_the_whole(rows, detach, ids):
    model, (drawn, steps) = _Mixer(), _latents(5)
    leaves = [drawn[1].requires_grad_(), drawn[2].requires_grad_()]
    wanted = _whole(model, drawn, steps, ids=ids, detach_negatives=detach)
    loss = DCRLoss(detach_negatives=detach)
    found = dcr_grid_loss(model, drawn[0], steps, *leaves, drawn[3], loss, ids, rows=rows)
    torch.testing.assert_close(found, wanted)
    # Of the whole grid, no gradient goes through predictions under others' conditions either.
    for a, b in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(wanted, leaves), strict=True):
        assert (a - b).abs().max() <= 1e-6
        assert a.abs().max() > 1e-3


def test_no_more_than_a_block_of_predictions_is_held():
    size, alive, most, calls = 12, weakref.WeakSet(), [0], [0]
    drawn, steps = _latents(size)
    model = _Mixer()

    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            held = x.clone()
            ctx.save_for_backward(held)
            return held

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.ones_like(ctx.saved_tensors[0])

    def predict(noisy, steps, condition):
        calls[0] = max(calls[0], len(noisy))
        found = Kept.apply(model(noisy, steps, condition))
        alive.add(found)
        most[0] = max(most[0], sum(len(each) for each in alive))
        return found

    held = []

    def pack(tensor):
        held.append(weakref.ref(tensor.untyped_storage()))
        return tensor

    leaves = [drawn[1].requires_grad_(), drawn[2].requires_grad_()]
    for rows, bound in ((1, 2 * (size + 1)), (2, 4 * (size + 1)), (None, size * (size + 1))):
        most[0] = calls[0] = 0
        gc.collect()
        dcr_grid_loss(predict, drawn[0], steps, *leaves, drawn[3], rows=rows).backward()
        assert calls[0] <= (rows or size) * size
        assert most[0] <= bound
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = dcr_grid_loss(predict, drawn[0], steps, *leaves, drawn[3], rows=1)
    # What waits for the gradient is no prediction: nothing as large as a row of them, but the latents themselves.
    sizes = [storage.nbytes() for storage in (each() for each in held) if storage is not None]
    assert max(sizes, default=0) < size * 10 * 8
    loss.backward()


def test_sampled_negatives_stand_for_all_of_them():
    model, (drawn, steps) = _Mixer(), _latents(6)
    exact = _whole(model, drawn, steps, reduction="none", temperature=0.7)
    loss = DCRLoss(0.7, "none")
    same = dcr_grid_loss(model, drawn[0], steps, *drawn[1:], loss, negatives=5, generator=torch.Generator())
    torch.testing.assert_close(same, exact)
    # The sum over negatives has the right mean: of exp(L) every other term stays.
    generator, total, rounds = torch.Generator().manual_seed(0), 0.0, 600
    for _ in range(rounds):
        found = dcr_grid_loss(model, drawn[0], steps, *drawn[1:], loss, negatives=2, generator=generator)
        total = total + found.exp()
    torch.testing.assert_close(total / rounds, exact.exp(), rtol=0.02, atol=0)


def test_sampled_negatives_leave_out_images_that_are_the_same():
    drawn, steps = _latents(4)
    ids = torch.tensor([0, 0, 0, 1])
    loss = DCRLoss(reduction="none")
    asked = []

    def predict(noisy, steps, condition):
        asked.append(condition)
        return noisy * condition.mean(1, keepdim=True)

    exact = dcr_grid_loss(predict, drawn[0], steps, *drawn[1:], loss, ids)
    # The first three have one negative, which is drawn surely; the last has three, two of which are drawn.
    found = dcr_grid_loss(
        predict, drawn[0], steps, *drawn[1:], loss, ids, negatives=2, generator=torch.Generator().manual_seed(1)
    )
    torch.testing.assert_close(found[:3], exact[:3])


def test_bad_grids_are_refused(plain_inputs):
    drawn, steps = _latents(3)
    with pytest.raises(ValueError, match="give a generator"):
        dcr_grid_loss(_Mixer(), drawn[0], steps, *drawn[1:], negatives=1)
    with pytest.raises(ValueError, match="predict gave shape"):
        dcr_grid_loss(lambda x, t, c: x[:, :2], drawn[0], steps, *drawn[1:])
    with pytest.raises(ValueError, match="condition_augmented must have shape"):
        dcr_grid_loss(_Mixer(), drawn[0], steps, drawn[1], drawn[2][:2], drawn[3])
    with pytest.raises(ValueError, match="rows=0"):
        dcr_grid_loss(_Mixer(), drawn[0], steps, *drawn[1:], rows=0)
