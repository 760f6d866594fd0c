import math

import pytest
import torch

from equipoise.dense import SizeInvariantLoss, WarmupLoss, frame_weight_map, object_frames

BASES = ("bce", "mse", "mae", "dice", "iou", "auc")


def of_region(name, p, g, gamma=1.0, far=None, cross=0.0):
    """A base on vectors of the pixels of a region, as the formulas say."""
    p, g = p.flatten(), g.flatten().double()
    if name == "bce":
        return -(g * p.log() + (1 - g) * (1 - p).log()).mean()
    if name in ("mse", "mae"):
        return ((p - g) ** 2).mean() if name == "mse" else (p - g).abs().mean()
    both = (p * g).sum()
    if name == "dice":
        return 1 - (2 * both + 1e-5) / (p.sum() + g.sum() + 1e-5)
    if name == "iou":
        return 1 - (both + 1) / (p.sum() + g.sum() - both + 1)
    pos, total, weight = p[g == 1], p.new_zeros(()), 0.0
    for neg, of in ((p[g == 0], 1.0), (far if far is not None else p[:0], cross)):
        if len(pos) and len(neg) and of:
            total = total + of * ((gamma - (pos[:, None] - neg[None])) ** 2).mean()
            weight += of
    return total / weight if weight else total


def by_regions(logits, target, bases, background, alpha="ratio", reduction="sum", gamma=1.0, cross=0.0):
    total = 0.0
    for z, g in zip(logits, target, strict=True):
        maps = z.sigmoid() if z.ndim == 3 else z.sigmoid()[None]
        frames = object_frames(g).tolist()
        if not len(frames):
            total += sum(of_region(name, p, g) for p in maps for name in bases if name != "auc")
            continue
        outside = torch.ones_like(g, dtype=torch.bool)
        for t, b, left, r in frames:
            outside[t:b, left:r] = False
        found = 0.0
        for t, b, left, r in frames:
            for p in maps:
                crop = p[t:b, left:r], g[t:b, left:r]
                found = found + sum(of_region(n, *crop, gamma, p[outside], cross) for n in bases)
        total += found / (len(frames) if reduction == "mean" else 1)
        behind = int(outside.sum())
        if behind:
            weight = behind / (g.numel() - behind) if alpha == "ratio" else alpha
            if background == "auto":
                separable = [n for n in bases if n in ("bce", "mse", "mae")]
                total += weight * sum(of_region(n, p[outside], g[outside]) for p in maps for n in separable)
            elif background != "none":
                total += weight * of_region(background, maps.mean(0)[outside], g[outside])
    return total / len(logits)


def world(seed=0, maps=None):
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(4, 9, 11, dtype=torch.long)
    target[0, 1:5, 1:4], target[0, 2, 4], target[0, 7, 8:10], target[0, 6, 9] = 1, 1, 1, 1
    target[1] = (torch.rand(9, 11, generator=generator) < 0.25).long()
    target[3] = 1
    shape = (4, 9, 11) if maps is None else (4, maps, 9, 11)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64), target


@pytest.mark.parametrize("background", ["auto", "none", "bce", "mse", "mae"])
@pytest.mark.parametrize(
    "bases", [("bce",), ("mse", "mae"), ("dice",), ("iou", "bce"), ("auc",), ("bce", "auc"), BASES]
)
@pytest.mark.parametrize("maps", [None, 3])
def test_the_loss_is_the_sum_over_regions(bases, background, maps):
    logits, target = world(maps=maps)
    found = SizeInvariantLoss(bases, background)(logits, target)
    torch.testing.assert_close(found, by_regions(logits, target, bases, background), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("options", [{"alpha": 0.4}, {"reduction": "mean"}, {"gamma": 0.3}, {"cross": 0.6}])
def test_options_are_those_of_the_sum_over_regions(options):
    logits, target = world(seed=1)
    found = SizeInvariantLoss(BASES, "auto", **options)(logits, target)
    torch.testing.assert_close(found, by_regions(logits, target, BASES, "auto", **options), rtol=1e-10, atol=1e-12)


def test_gradients_are_finite_differences():
    logits, target = (each[:2, :6, :6] for each in world(seed=2))
    loss = SizeInvariantLoss(BASES, "mse", cross=0.5)
    assert torch.autograd.gradcheck(lambda z: loss(z, target), logits.requires_grad_(), atol=1e-7)


def test_a_separable_loss_is_one_weighted_sum():
    logits, target = world(seed=3)
    weight = torch.stack([frame_weight_map(mask) for mask in target])
    pixels = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.double(), reduction="none")
    torch.testing.assert_close(SizeInvariantLoss()(logits, target), (weight * pixels).sum() / len(logits))


def test_given_frames_are_used_and_may_be_none_of_a_mask():
    logits, target = world(seed=4)
    loss = SizeInvariantLoss(BASES)
    frames = [object_frames(mask) for mask in target]
    torch.testing.assert_close(loss(logits, target, frames), loss(logits, target))
    none = [torch.zeros(0, 4, dtype=torch.long)] * 4
    whole = sum(of_region(n, z.sigmoid(), g) for z, g in zip(logits, target, strict=True) for n in BASES[:-1]) / 4
    torch.testing.assert_close(loss(logits, target, none), whole)


def test_one_object_counts_the_same_at_every_size():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    mask = torch.tensor([[1, 0], [1, 1]])
    values = []
    for times in (1, 2, 3):
        z, g = torch.full((20, 20), -2.0), torch.zeros(20, 20, dtype=torch.long)
        side = slice(1, 1 + 2 * times)
        z[side, side], g[side, side] = (
            each.repeat_interleave(times, 0).repeat_interleave(times, 1) for each in (logits, mask)
        )
        z[15:17, 15:17], g[15:17, 15:17] = 1.0, 1
        values.append(SizeInvariantLoss(("bce", "mse", "auc"), "none")(z[None], g[None]))
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])


def test_hundreds_of_objects_and_an_image_full_of_them():
    target = torch.zeros(2, 60, 60, dtype=torch.long)
    target[0, ::3, ::3] = 1
    target[1] = 1
    logits = torch.randn(2, 60, 60, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = SizeInvariantLoss(BASES)(logits, target)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_the_warm_up_is_plain_and_ends():
    logits, target = world(seed=5)
    loss = WarmupLoss(SizeInvariantLoss(("bce", "auc")), epochs=2)
    late = SizeInvariantLoss(("bce", "auc"))(logits, target)
    plain = sum(
        of_region(n, z.sigmoid(), g) for z, g in zip(logits, target, strict=True) for n in ("bce", "auc")
    ) / len(logits)
    for epoch, wanted in ((0, plain), (1, plain), (2, late), (50, late)):
        loss.set_epoch(epoch)
        torch.testing.assert_close(loss(logits, target), wanted)


def test_mistakes_are_told(plain_inputs):
    logits, target = world()
    with pytest.raises(ValueError, match=r"base.*at least one"):
        SizeInvariantLoss(())
    with pytest.raises(ValueError, match="background='dice' is not known"):
        SizeInvariantLoss(background="dice")
    with pytest.raises(ValueError, match="alpha"):
        SizeInvariantLoss(alpha=-1.0)
    with pytest.raises(ValueError, match="target must have shape"):
        SizeInvariantLoss()(logits, target[:, :-1])
    with pytest.raises(ValueError, match="target holds the value 255"):
        SizeInvariantLoss()(logits, 255 * target)
    with pytest.raises(ValueError, match="logits holds 1 NaN"):
        SizeInvariantLoss()(torch.where(torch.arange(11) == 3, math.nan, logits[:1, :1]), target[:1, :1])
    with pytest.raises(ValueError, match="target must have shape"):
        SizeInvariantLoss()(logits[:, None].expand(4, 2, 9, 11), target[:, None].expand(4, 2, 9, 11))
