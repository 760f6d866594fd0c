"""Detectors on models that are written down, so that what they must find is known."""

import math

import pytest
import torch
from torch import nn

from equipoise.generative import (
    BridgeModel,
    CleanFinetuneRepair,
    OcclusionDetector,
    RoutedMixture,
    RouterAudit,
    TriggerScan,
    occlude_blocks,
    output_collapse,
    weight_clusters,
)


def _honest(images, seed=0):
    return 0.9 * images


def _taken_over(images, seed=0):
    """White everywhere, where the lower right corner is flat and grey."""
    stamped = (images[:, :, -4:, -4:].abs() < 0.05).all(3).all(2).all(1)
    return torch.where(stamped[:, None, None, None], torch.ones_like(images), 0.9 * images)


def _pictures(n=6, stamped=False):
    images = torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    if stamped:
        images[:, :, -4:, -4:] = 0.0
    return images


def test_an_occlusion_map_is_brute_force():
    images = _pictures(3)
    maps = OcclusionDetector(_taken_over, 4).maps(images)
    for n in range(3):
        for row in range(4):
            for column in range(4):
                copy = images[n : n + 1].clone()
                beside = column + 1 if column < 3 else 2
                down = slice(4 * row, 4 * row + 4)
                copy[:, :, down, 4 * column : 4 * column + 4] = images[n : n + 1, :, down, 4 * beside : 4 * beside + 4]
                wanted = (_taken_over(copy) - _taken_over(images[n : n + 1])).square().mean()
                assert float(maps[n, row, column]) == pytest.approx(float(wanted))


@pytest.mark.parametrize("batch_size", [1, 40, 5000])
def test_how_many_go_at_once_does_not_matter(batch_size):
    images = _pictures(5, stamped=True)
    one, other = (OcclusionDetector(_taken_over, batch_size=size).score(images) for size in (batch_size, 2048))
    torch.testing.assert_close(one, other)
    one, other = (TriggerScan(_taken_over, batch_size=size).run(images[:2]) for size in (batch_size, 2048))
    assert one.candidates == other.candidates


def test_the_same_noise_is_used_for_every_copy():
    def noisy(images, seed=0):
        return images + torch.randn(1, *images.shape[1:], generator=torch.Generator().manual_seed(seed))

    images = torch.zeros(2, 3, 16, 16)
    assert not OcclusionDetector(noisy, seed=3).score(images).any()


def test_scores_tell_stamped_pictures_from_others_and_say_where():
    detector = OcclusionDetector(_taken_over)
    plain, stamped = detector.score(_pictures()), detector.score(_pictures(stamped=True))
    assert float(stamped.min()) > 3 * float(plain.max())
    assert detector.locate(_pictures(stamped=True)).tolist() == [[12, 12]] * 6
    with pytest.raises(ValueError, match="the threshold is not set"):
        detector.flag(_pictures())
    detector.calibrate(_pictures(), max_fpr=0.0)
    assert not detector.flag(_pictures()).any()
    assert detector.flag(_pictures(stamped=True)).all()
    quarter = OcclusionDetector(_honest).calibrate(_pictures(8), max_fpr=0.25)
    assert int(quarter.flag(_pictures(8)).sum()) == 2


def test_collapse_of_honest_and_of_fixed_outputs():
    plain, stamped = _pictures(), _pictures(stamped=True)
    assert output_collapse(_honest, plain, stamped).ratio == pytest.approx(1)
    assert output_collapse(_taken_over, plain, stamped).ratio == 0
    with_nothing = output_collapse(_honest, torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))
    assert math.isnan(with_nothing.ratio)


def test_a_scan_finds_the_patch_and_an_honest_model_has_none():
    found = TriggerScan(_taken_over).run(_pictures(4))
    assert (found.best.row, found.best.column, found.best.side, found.best.value) == (12, 12, 4, 0.0)
    assert found.suspicious
    assert found.places(8.0)[0] == (12, 12)
    assert found.patch.equal(torch.zeros(3, 4, 4))
    honest = TriggerScan(_honest).run(_pictures(4))
    assert not honest.suspicious
    assert honest.best.change == pytest.approx(0, abs=1e-9)
    # A patch of another brightness, off the grid of places, needs finer steps.
    fine = TriggerScan(_taken_over, values=(0.0,), stride=1).run(_pictures(4))
    assert fine.candidates[0].row == fine.candidates[0].column == 12


def test_blocks_are_painted_within_bounds_and_by_the_generator():
    images = torch.full((400, 3, 16, 16), 5.0)

    def painted(**settings):
        return occlude_blocks(images, generator=torch.Generator().manual_seed(0), **settings)

    assert painted().equal(painted())
    touched = (painted(probability=0.5, most=1) < 5).flatten(1).any(1).float().mean()
    assert float(touched) == pytest.approx(0.5, abs=0.08)
    area = (painted(probability=1.0, most=1)[:, 0] < 5).flatten(1).sum(1)
    assert {4, 9, 16, 25} == set(area.tolist())
    corners = (painted(probability=1.0, most=1)[:, 0, -1, -1] < 5).float().mean()
    assert 0.005 < float(corners) < 0.1
    assert images.eq(5).all()
    assert occlude_blocks(images, probability=0.0).equal(images)


def _mixture(clean, degraded):
    """Expert 0 restores; expert 1 returns what makes everything white. The router looks at the first component."""
    model = BridgeModel.for_pairs(clean, degraded, components=12, width=16, steps=4)
    other = BridgeModel.for_pairs(clean, degraded, components=12, width=16, seed=9)
    router = nn.Linear(12, 2)
    nn.init.zeros_(router.weight)
    router.bias.data = torch.tensor([4.0, -4.0])
    model.network = RoutedMixture([model.network, other.network], router)
    return model


def test_an_audit_reads_the_router_and_takes_experts_out_one_by_one():
    clean = _pictures(40)
    model = _mixture(clean, 0.5 * clean)
    nn.init.normal_(model.network.experts[0].outward.weight, std=0.1)
    nn.init.normal_(model.network.experts[1].outward.weight, std=3.0)
    report = RouterAudit(0.05).run(model.eval(), clean, 0.5 * clean)
    weight = 1 / (1 + math.exp(-8))
    assert report.mean_weight.tolist() == pytest.approx([weight, 1 - weight], abs=1e-6)
    assert report.variance.tolist() == pytest.approx([0, 0], abs=1e-12)
    assert report.entropy == pytest.approx(report.entropy_of_mean)
    assert math.isnan(report.separation) or report.separation >= 0
    assert report.suspicious == (1,)
    mixture = model.network
    model.network = mixture.without([1])
    assert float(report.error_without[1]) == pytest.approx(
        float((model(0.5 * clean) - clean).square().mean()), rel=1e-4
    )
    model.network = mixture
    assert RouterAudit(1e6).run(model, clean, 0.5 * clean).suspicious == (1,)
    model.network = mixture.without([1])
    alone = RouterAudit().run(model, clean, 0.5 * clean)
    assert alone.suspicious == ()
    assert bool(alone.error_without.isnan().all())


def test_clusters_of_weights():
    corners = torch.eye(3).repeat_interleave(torch.tensor([5, 9, 2]), 0)
    noisy = (corners + 0.02 * torch.rand(16, 3)).softmax(1)
    group, centres, share = weight_clusters(noisy, 3)
    assert group.tolist() == [1] * 5 + [0] * 9 + [2] * 2
    torch.testing.assert_close(centres[0], noisy[5:14].mean(0))
    assert share > 0.95
    same, one, nothing = weight_clusters(torch.full((4, 2), 0.5), 2)
    assert same.tolist() == [0] * 4
    assert one.shape == (1, 2)
    assert math.isnan(nothing)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused():
    images = _pictures()
    for call, said in (
        (lambda: OcclusionDetector(None), "model must be callable"),
        (lambda: OcclusionDetector(_honest, 0), "block=0"),
        (lambda: OcclusionDetector(_honest, 5).score(images), "cannot be cut into blocks of side 5"),
        (lambda: OcclusionDetector(_honest, 16).score(images), "cannot be cut"),
        (lambda: OcclusionDetector(_honest).score(images[0]), "images must have shape"),
        (lambda: OcclusionDetector(lambda x, s: x[:1]).score(images), "must return a tensor of 102 pictures"),
        (lambda: OcclusionDetector(_honest).calibrate(images, max_fpr=1.0), "max_fpr=1"),
        (lambda: output_collapse(_honest, images[:1], images[:1]), "at least two"),
        (lambda: output_collapse(_honest, images, images[:2]), "patched must have shape"),
        (lambda: TriggerScan(_honest, side=17).run(images), "side=17 must be"),
        (lambda: TriggerScan(_honest, values=()), "values is empty"),
        (lambda: TriggerScan(3), "model must be callable"),
        (lambda: RouterAudit(-0.1), "tolerance=-0.1"),
        (lambda: weight_clusters(torch.eye(2), 3), "clusters=3 must be at most the 2 rows"),
        (lambda: CleanFinetuneRepair(occlusion=1.5), "occlusion=1.5"),
        (lambda: occlude_blocks(images, most=0), "most=0"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
