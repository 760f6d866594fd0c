"""The pixel AUC loss against the definition, pair by pair."""

import copy
import itertools
import math
import warnings

import pytest
import torch
from torch.nn.functional import interpolate

from equipoise.core.pairs.class_pairs import ClassPairs, class_pair_loss
from equipoise.core.pairs.surrogates import exponential
from equipoise.dense import PixelAUCLoss, SegmentationAUCLoss, pixel_auc_loss, pixel_auc_pair_losses
from equipoise.ranking import multiclass_auc_loss

_LOSSES = {
    "square": lambda d, g: (g - d) ** 2,
    "half_square": lambda d, g: (g - d) ** 2 / 2,
    "hinge": lambda d, g: max(0.0, g - d),
    "squared_hinge": lambda d, g: max(0.0, g - d) ** 2,
    "exponential": lambda d, g: math.exp(-g * d),
    "logistic": lambda d, g: math.log1p(math.exp(-g * d)),
    "linear": lambda d, g: g - d,
}


def _batch(seed=0, shape=(2, 4, 3, 5), ignored=0.2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=dtype) * 2
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


def _scored(logits, activation):
    return {"sigmoid": torch.sigmoid, "softmax": lambda x: x.softmax(1), None: lambda x: x}[activation](logits)


def _matrix(logits, target, surrogate, margin, activation):
    """A loop over pairs of pixels."""
    columns = _scored(logits, activation).movedim(1, 0).flatten(1)
    labels = target.flatten().tolist()
    found = {}
    for c in range(len(columns)):
        f = columns[c].tolist()
        for j in range(len(columns)):
            terms = [
                _LOSSES[surrogate](f[m] - f[n], margin)
                for m, n in itertools.product(range(len(f)), repeat=2)
                if labels[m] == c and labels[n] == j
            ]
            if c != j and terms:
                found[c, j] = (sum(terms), len(terms))
    return found


def _loss(matrix, average, reduction, classes=None):
    kept = {pair: value for pair, value in matrix.items() if classes is None or pair[0] in classes}
    if average == "ovo":
        values = [total / number for total, number in kept.values()]
    else:
        values = [
            sum(t for (k, _), (t, _) in kept.items() if k == c) / sum(n for (k, _), (_, n) in kept.items() if k == c)
            for c in sorted({c for c, _ in kept})
        ]
    return sum(values) / (len(values) if reduction == "mean" else 1)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", None])
@pytest.mark.parametrize("average", ["ovo", "ovr"])
@pytest.mark.parametrize("surrogate", sorted(_LOSSES))
def test_the_loss_is_that_of_a_loop_over_pairs_of_pixels(surrogate, average, activation):
    logits, target = _batch()
    target[target == 2] = 0  # an absent class
    for margin, reduction in ((1.0, "mean"), (0.4, "sum")):
        found = pixel_auc_loss(
            logits,
            target,
            surrogate=surrogate,
            average=average,
            margin=margin,
            activation=activation,
            reduction=reduction,
        )
        wanted = _loss(_matrix(logits, target, surrogate, margin, activation), average, reduction)
        assert float(found) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("surrogate", sorted(_LOSSES))
def test_a_pair_matrix_holds_the_mean_of_every_pair_of_classes_and_its_gradients(surrogate):
    logits, target = _batch(1, (1, 4, 3, 4))
    target[target == 3] = 255
    found = pixel_auc_pair_losses(logits, target, surrogate=surrogate, margin=0.7)
    matrix = _matrix(logits, target, surrogate, 0.7, "sigmoid")
    wanted = torch.full((4, 4), torch.nan, dtype=torch.float64)
    for (c, j), (total, number) in matrix.items():
        wanted[c, j] = total / number
    torch.testing.assert_close(found, wanted, equal_nan=True)
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def weighed(x):
        losses = pixel_auc_pair_losses(x, target, surrogate=surrogate, margin=0.7)
        return (losses * weight)[losses.isfinite()].sum()

    assert torch.autograd.gradcheck(weighed, logits.clone().requires_grad_())


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", None])
@pytest.mark.parametrize("average", ["ovo", "ovr"])
@pytest.mark.parametrize("surrogate", sorted(_LOSSES))
def test_gradients_are_those_of_finite_differences(surrogate, average, activation):
    logits, target = _batch(3, (2, 3, 2, 3))

    def loss(x):
        return pixel_auc_loss(x, target, surrogate=surrogate, average=average, margin=0.9, activation=activation)

    assert torch.autograd.gradcheck(loss, logits.clone().requires_grad_())


@pytest.mark.parametrize("surrogate", ["square", "hinge", "squared_hinge", "exponential", "logistic"])
@pytest.mark.parametrize("average", ["ovo", "ovr"])
def test_a_matrix_of_samples_has_the_multiclass_auc_loss(surrogate, average):
    logits, target = _batch(4, (40, 5, 1, 1), ignored=0)
    rows, labels = logits.flatten(1), target.flatten()
    found = pixel_auc_loss(rows, labels, surrogate=surrogate, average=average, activation=None)
    assert found.equal(multiclass_auc_loss(rows, labels, surrogate=surrogate, average=average))


def test_one_column_is_one_pair_of_classes():
    logits, target = _batch(5, (2, 1, 3, 4), ignored=0)
    target = (logits[:, 0] + torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)) > 0).long()
    target[0, 0, 0] = 255
    f = logits[:, 0].sigmoid()
    pairs = f[target == 1][:, None] - f[target == 0]
    for surrogate in ("half_square", "hinge", "exponential", "logistic"):
        wanted = sum(_LOSSES[surrogate](d, 1.0) for d in pairs.flatten().tolist()) / pairs.numel()
        assert float(pixel_auc_loss(logits, target, surrogate=surrogate)) == pytest.approx(wanted)
        matrix = pixel_auc_pair_losses(logits, target, surrogate=surrogate)
        assert matrix.shape == (1, 2)
        assert matrix[0, 1].isnan()
        assert float(matrix[0, 0]) == pytest.approx(wanted)


@pytest.mark.parametrize("average", ["ovo", "ovr"])
def test_chosen_classes_are_ranked_against_all_others(average):
    logits, target = _batch(6)
    found = pixel_auc_loss(logits, target, surrogate="hinge", average=average, classes=[1, 3])
    wanted = _loss(_matrix(logits, target, "hinge", 1.0, "sigmoid"), average, "mean", {1, 3})
    assert float(found) == pytest.approx(wanted)


def test_what_is_ignored_does_not_count_whatever_it_holds():
    logits, target = _batch(7)
    wanted = pixel_auc_loss(logits, target)
    changed = torch.where((target == 255)[:, None], 50.0, logits).requires_grad_()
    found = pixel_auc_loss(changed, target)
    torch.testing.assert_close(found, wanted)
    found.backward()
    assert changed.grad.movedim(1, -1)[target == 255].abs().sum() == 0
    torch.testing.assert_close(pixel_auc_loss(logits, target.masked_fill(target == 255, -1), ignore_index=-1), wanted)


@pytest.mark.parametrize("surrogate", ["half_square", "exponential", "hinge"])
def test_order_of_pixels_layout_and_names_of_classes_do_not_matter(surrogate):
    logits, target = _batch(8)
    wanted = pixel_auc_loss(logits, target, surrogate=surrogate)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    rows, labels = logits.movedim(1, -1).reshape(30, 4)[order], target.flatten()[order]
    torch.testing.assert_close(pixel_auc_loss(rows, labels, surrogate=surrogate), wanted)
    last = logits.to(memory_format=torch.channels_last)
    torch.testing.assert_close(pixel_auc_loss(last, target, surrogate=surrogate), wanted)
    renamed = torch.tensor([2, 0, 3, 1])
    swapped = torch.empty_like(logits)
    swapped[:, renamed] = logits
    names = torch.where(target == 255, 255, renamed[target.clamp_max(3)])
    torch.testing.assert_close(pixel_auc_loss(swapped, names, surrogate=surrogate), wanted)


def test_the_prior_of_a_class_does_not_matter():
    logits, target = _batch(9, ignored=0)
    rows, labels = logits.movedim(1, -1).reshape(-1, 4), target.flatten()
    more = labels == 1
    found = pixel_auc_loss(torch.cat([rows, rows[more], rows[more]]), torch.cat([labels, labels[more], labels[more]]))
    torch.testing.assert_close(found, pixel_auc_loss(rows, labels))


def test_sigmoid_scores_never_reach_the_hinge_of_one():
    logits, target = _batch(10)
    torch.testing.assert_close(
        pixel_auc_loss(logits, target, surrogate="linear"), pixel_auc_loss(logits, target, surrogate="hinge")
    )


@pytest.mark.parametrize("surrogate", ["half_square", "hinge"])
@pytest.mark.parametrize("held", ["one class", "nothing"])
def test_a_batch_without_a_pair_gives_an_attached_zero(surrogate, held):
    logits, target = _batch(11)
    target[:] = 2 if held == "one class" else 255
    logits.requires_grad_()
    with pytest.warns(UserWarning, match="with no pair to rank"):
        loss = pixel_auc_loss(logits, target, surrogate=surrogate)
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad.abs().sum() == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pixel_auc_pair_losses(logits, target, surrogate=surrogate).isnan().all()


@pytest.mark.parametrize("surrogate", sorted(_LOSSES))
def test_saturated_scores_keep_their_digits(surrogate):
    logits, target = _batch(12, ignored=0)
    # Sigmoids within 1e-6 of 0 and 1, where E f² − (E f)² of float32 is noise.
    extreme = (14 + logits) * torch.where(target[:, None] == torch.arange(4)[:, None, None], 1.0, -1.0)
    exact = pixel_auc_loss(extreme, target, surrogate=surrogate)
    found = pixel_auc_loss(extreme.float(), target, surrogate=surrogate)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-14)


def test_raw_scores_far_from_zero_keep_their_digits():
    logits, target = _batch(13, ignored=0)
    single = (logits + 1e4).float().requires_grad_()
    double = single.detach().double().requires_grad_()
    for surrogate in ("square", "exponential"):
        losses = [pixel_auc_loss(x, target, surrogate=surrogate, activation=None) for x in (single, double)]
        torch.testing.assert_close(losses[0].double(), losses[1], rtol=1e-5, atol=1e-7)
        gradients = [torch.autograd.grad(loss, x)[0] for loss, x in zip(losses, (single, double), strict=True)]
        torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-5, atol=1e-7)


def test_a_mean_that_has_no_float_of_its_own_costs_the_variance_nothing():
    generator = torch.Generator().manual_seed(0)
    # Whole numbers around 2²³, whose neighbours in float32 are 1 apart: the mean must be rounded by up to a half.
    scores = 2.0**23 + torch.randint(0, 4, (60, 2), generator=generator)
    labels = torch.arange(60) % 2
    found = pixel_auc_loss(scores, labels, surrogate="square", activation=None)
    wanted = pixel_auc_loss(scores.double(), labels, surrogate="square", activation=None)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=0)


def test_exponentials_that_overflow_one_by_one_are_summed_in_logarithms():
    scores = torch.tensor([[900.0, 0.0], [800.0, 0.0]], dtype=torch.float64)
    found = pixel_auc_loss(scores, torch.tensor([0, 1]), surrogate="exponential", activation=None, classes=[0])
    assert float(found) == pytest.approx(math.exp(-100))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    logits, target = _batch(14)
    half = logits.to(dtype).requires_grad_()
    loss = pixel_auc_loss(half, target)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, pixel_auc_loss(half.float(), target))
    loss.backward()
    assert half.grad.dtype is dtype


def test_many_columns_go_through_several_blocks(monkeypatch):
    logits, target = _batch(15, (2, 5, 2, 4))
    wanted = [pixel_auc_loss(logits, target, surrogate=s) for s in ("square", "exponential", "hinge")]
    monkeypatch.setattr("equipoise.core.pairs.class_tables._BLOCK", 16)
    monkeypatch.setattr("equipoise.core.pairs.class_pairs._CHUNK", 32)
    for surrogate, value in zip(("square", "exponential", "hinge"), wanted, strict=True):
        x = logits.clone().requires_grad_()
        loss = pixel_auc_loss(x, target, surrogate=surrogate)
        torch.testing.assert_close(loss, value)
        assert torch.autograd.gradcheck(lambda x, s=surrogate: pixel_auc_loss(x, target, surrogate=s), x)


def test_a_second_derivative_is_refused_rather_than_wrong():
    logits, target = _batch(16)
    logits.requires_grad_()
    for surrogate in ("square", "exponential", "hinge"):
        (slope,) = torch.autograd.grad(pixel_auc_loss(logits, target, surrogate=surrogate), logits, create_graph=True)
        with pytest.raises(RuntimeError, match="first-order gradients only"):
            slope.square().sum().backward()


def test_weights_count_as_repeated_samples():
    generator = torch.Generator().manual_seed(4)
    rows = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    labels, times = torch.arange(12) % 3, torch.arange(12) % 4
    kept = torch.arange(12).repeat_interleave(times)
    weighed = ClassPairs(rows.T[None], labels[None], 3, times[None].double())
    repeated = ClassPairs(rows[kept].T[None], labels[kept][None], 3)
    found, wanted = (class_pair_loss(p, p.totals(), exponential, 1.0, "ovo", "mean") for p in (weighed, repeated))
    torch.testing.assert_close(found, wanted)


def test_a_cap_draws_a_part_of_every_class_without_bias():
    logits, target = _batch(17, (1, 3, 12, 12))
    whole = pixel_auc_loss(logits, target, surrogate="logistic")
    torch.testing.assert_close(
        pixel_auc_loss(
            logits, target, surrogate="logistic", max_pixels_per_class=144, generator=torch.Generator().manual_seed(1)
        ),
        whole,
    )
    loss = PixelAUCLoss("logistic", max_pixels_per_class=6)
    state = torch.random.get_rng_state()
    draws = torch.stack([loss(logits, target) for _ in range(200)])
    assert torch.random.get_rng_state().equal(state)
    assert len(draws.unique()) > 190
    assert abs(float(draws.mean() - whole)) < 4 * float(draws.std()) / 200**0.5
    again = PixelAUCLoss("logistic", max_pixels_per_class=6)
    again.load_state_dict(copy.deepcopy(loss.state_dict()))
    assert again(logits, target).equal(loss(logits, target))


def test_logits_are_brought_to_the_size_of_labels():
    logits, _ = _batch(18, (1, 3, 2, 2), dtype=torch.float32)
    target = torch.arange(64).view(1, 8, 8) % 3
    logits.requires_grad_()
    wanted = interpolate(logits, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(pixel_auc_loss(logits, target, upsample=True), pixel_auc_loss(wanted, target))
    found = SegmentationAUCLoss(upsample=True)(logits, target)
    found.total.backward()
    assert logits.grad.abs().sum() > 0


def test_the_objective_is_the_sum_of_its_parts():
    logits, target = _batch(19, dtype=torch.float32)
    found = SegmentationAUCLoss(4.0)(logits, target)
    entropy = torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
    torch.testing.assert_close(found.cross_entropy, entropy)
    torch.testing.assert_close(found.auc, pixel_auc_loss(logits, target))
    torch.testing.assert_close(found.total, entropy + 4 * found.auc)
    # Half the weight on the whole square is the same objective.
    torch.testing.assert_close(SegmentationAUCLoss(2.0, "square")(logits, target).total, found.total)
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    torch.testing.assert_close(
        SegmentationAUCLoss(class_weight=weight)(logits, target).cross_entropy,
        torch.nn.functional.cross_entropy(logits, target, weight, ignore_index=255),
    )


def test_the_objective_of_ignored_pixels_is_zero():
    logits, target = _batch(20, dtype=torch.float32)
    logits.requires_grad_()
    with pytest.warns(UserWarning, match="no pair to rank"), pytest.warns(UserWarning, match="are all ignored"):
        found = SegmentationAUCLoss()(logits, torch.full_like(target, 255))
    found.total.backward()
    assert float(found.total.detach()) == 0
    assert logits.grad.abs().sum() == 0


def test_it_trains_a_segformer():
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=3,
    )
    model, loss = transformers.SegformerForSemanticSegmentation(config), SegmentationAUCLoss(upsample=True)
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, 3, (2, 4, 4), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    image = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    target[:, :2] = 255
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    values = []
    for _ in range(12):
        optimizer.zero_grad()
        found = loss(model(image).logits, target)
        found.total.backward()
        optimizer.step()
        values.append(found.auc.item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": torch.zeros(2, 6, 10, dtype=torch.long)}, r"target has shape \(2, 6, 10\).*upsample=True"),
        ({"target": torch.zeros(30, dtype=torch.long)}, r"target has shape \(30,\)"),
        ({"target": torch.full((2, 3, 5), 7)}, r"target holds the label 7, wanted classes from 0 to 3 or ignore_index"),
        ({"margin": 0.0}, "margin"),
        ({"surrogate": "cubic"}, "surrogate"),
        ({"average": "ova"}, "average"),
        ({"activation": "tanh"}, "activation"),
        ({"classes": [4]}, r"classes=\(4,\)"),
        ({"classes": [1, 1]}, "distinct"),
        ({"max_pixels_per_class": 5}, "generator is needed"),
        ({"logits": torch.zeros(2, 1, 3, 5), "activation": "softmax", "target": torch.ones(2, 3, 5).long()}, "softmax"),
        ({"logits": torch.full((2, 4, 3, 5), torch.nan)}, "logits"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_in_a_sentence(change, words):
    logits, target = _batch(21)
    given = {"logits": logits, "target": target, **change}
    with pytest.raises(ValueError, match=words):
        pixel_auc_loss(**given)
