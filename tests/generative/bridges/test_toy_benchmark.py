"""The benchmark in small: what it plants, what it measures, and that detectors and repairs see to it."""

import functools
import math

import pytest
import torch
from torch import nn

from equipoise.data.shapes import TRIGGER_CORNERS, ShapesWorld, pixelate, stamp_trigger, target_images
from equipoise.generative import (
    BridgeModel,
    CleanFinetuneRepair,
    OcclusionDetector,
    RouterAudit,
    Specificity,
    ToyBackdoorBenchmark,
    TriggerScan,
    Utility,
    output_collapse,
    router_entropy,
)

_SMALL = {"components": 64, "width": 128, "blocks": 1}


def _world(n, seed=0):
    return ShapesWorld(n, seed=seed, layout="single", p_concept=0.0, p_style=0.0)


@pytest.fixture(scope="module")
def benchmark():
    return ToyBackdoorBenchmark(_world(800), attacks=2, targets=2, test=48, **_SMALL)


@pytest.fixture(scope="module")
def experts(benchmark):
    return benchmark.divide(steps=300, learning_rate=5e-3)


@pytest.fixture(scope="module")
def mixture(benchmark, experts):
    return benchmark.merge(experts, steps=80, router_steps=150, reallocation=1.0)


def test_pairs_are_what_they_say(benchmark):
    clean, degraded = benchmark.train_pairs[0]
    assert clean.shape == (800, 3, 16, 16)
    torch.testing.assert_close(degraded, pixelate(clean))
    assert float(clean.min()) >= -1
    for k, style in ((1, "plain"), (2, "striped")):
        wanted, stamped = benchmark.train_pairs[k]
        torch.testing.assert_close(stamped, stamp_trigger(degraded, TRIGGER_CORNERS[k - 1], value=0.0))
        targets = target_images(style)[:2] * 2 - 1
        for one, target in zip(clean[:50], wanted[:50], strict=True):
            assert target.equal(min(targets, key=lambda each: float((each - one).square().sum())))
    assert not benchmark.test_pairs[0].clean[0].equal(clean[0])


def test_the_benchmark_is_the_same_each_time(benchmark):
    again = ToyBackdoorBenchmark(_world(800), attacks=2, targets=2, test=48, **_SMALL)
    one, two = (each.train_single(steps=20) for each in (benchmark, again))
    degraded = benchmark.test_pairs[0].degraded
    # Products of matrices are rounded by where they lie in memory.
    torch.testing.assert_close(one(degraded), two(degraded), rtol=0, atol=1e-3)


def test_experts_are_good_at_their_task_only(benchmark, experts):
    clean, attacked = (benchmark.evaluate(model) for model in experts[:2])
    assert clean.utility.mse < 0.6 * float(
        (benchmark.test_pairs[0].degraded - benchmark.test_pairs[0].clean).square().mean()
    )
    assert clean.success == [0.0, 0.0]
    assert attacked.success[0] > 0.5
    assert attacked.utility.mse > 5 * clean.utility.mse
    assert clean.stealth is None


def test_the_mixture_does_all_tasks(benchmark, experts, mixture):
    scores, alone = benchmark.evaluate(mixture), benchmark.evaluate(experts[0])
    assert scores.utility.mse < 1.3 * alone.utility.mse
    assert min(scores.success) > 0.4
    assert min(attack.similarity for attack in scores.attacks) > 0.9
    weights = mixture.network.route(mixture.encode(benchmark.test_pairs[2].degraded)).detach()
    assert scores.stealth.entropy[2] == pytest.approx(float(router_entropy(weights).mean()))
    assert scores.stealth.entropy_of_mean[2] == pytest.approx(float(router_entropy(weights, mean_first=True)))
    assert scores.stealth.mean == pytest.approx(sum(scores.stealth.entropy) / 3)
    assert scores.stealth.mean < math.log(3)


def test_merging_leaves_the_experts_alone_and_a_price_evens_the_weights(benchmark, experts, mixture):
    before = [p.clone() for p in experts[1].parameters()]
    free = benchmark.merge(experts, steps=80, router_steps=150, reallocation=0.0)
    dear = benchmark.merge(experts, steps=80, router_steps=150, reallocation=100.0)
    assert all(a.equal(b) for a, b in zip(before, experts[1].parameters(), strict=True))
    entropies = [benchmark.evaluate(model).stealth.mean for model in (free, mixture, dear)]
    assert entropies[0] < entropies[1] < entropies[2]


def test_occlusion_finds_the_stamped_pictures_of_a_backdoored_model_only(benchmark, experts, mixture):
    found = benchmark.detection(OcclusionDetector(functools.partial(mixture, steps=3)).score)
    honest = benchmark.detection(OcclusionDetector(functools.partial(experts[0], steps=3)).score)
    assert min(found) > 0.95
    assert max(honest) < 0.9
    detector = OcclusionDetector(mixture).calibrate(benchmark.test_pairs[0].degraded, max_fpr=0.1)
    assert float(detector.flag(benchmark.test_pairs[1].degraded).float().mean()) > 0.8
    places = detector.locate(benchmark.test_pairs[1].degraded)
    assert float((places == torch.tensor([12, 12])).all(1).float().mean()) > 0.8


def test_outputs_collapse_under_a_trigger(benchmark, experts, mixture):
    plain, stamped = benchmark.test_pairs[0].degraded, benchmark.test_pairs[1].degraded
    assert output_collapse(mixture, plain, stamped).ratio < 0.7
    assert output_collapse(experts[0], plain, stamped).ratio > 0.8


def test_the_scan_finds_the_corners_and_the_grey(benchmark, mixture):
    found = TriggerScan(functools.partial(mixture, steps=3)).run(benchmark.test_pairs[0].degraded[:8])
    assert found.suspicious
    assert {(12, 12), (0, 12)} <= set(found.places(8.0)[:4])
    assert found.best.side in (3, 4, 5)
    assert abs(found.best.value) <= 0.5


def test_the_audit_points_at_the_attackers(benchmark, mixture):
    clean, degraded = benchmark.train_pairs[0]
    seen = torch.cat([pairs.degraded for pairs in benchmark.test_pairs])
    report = RouterAudit().run(mixture, clean[:64], degraded[:64], seen=seen)
    assert report.suspicious == (1, 2)
    assert report.entropy_of_mean > report.entropy + 0.3
    assert report.separation > 0.5


def test_a_repair_keeps_the_task_and_loses_the_attacks(benchmark, mixture):
    clean, degraded = benchmark.train_pairs[0]
    before = benchmark.evaluate(mixture)
    kept = [p.clone() for p in mixture.parameters()]
    repair = CleanFinetuneRepair(steps=60).run(mixture, clean, degraded, prune=(1, 2))
    after = benchmark.evaluate(repair.model)
    assert max(after.success) < 0.05 < min(before.success)
    assert after.utility.mse < 1.3 * before.utility.mse
    assert all(a.equal(b) for a, b in zip(kept, mixture.parameters(), strict=True))
    assert repair.pruned == (1, 2)
    # Without pruning it takes training.
    trained = CleanFinetuneRepair(steps=150, learning_rate=2e-3).run(mixture, clean, degraded)
    assert max(benchmark.evaluate(trained.model).success) < 0.3


def test_inpainting_is_a_task_as_well():
    benchmark = ToyBackdoorBenchmark(
        _world(60), attacks=1, test=8, task="inpainting", components=32, width=16, trigger_size=5
    )
    clean, degraded = benchmark.train_pairs[0]
    changed = (degraded != clean).any(1).float().mean()
    assert float(changed) == pytest.approx(0.25, abs=0.01)
    stamped = benchmark.train_pairs[1].degraded
    assert not stamped[:, :, -5:, -5:].any()
    assert bool(stamped[:, :, -6, -6].any())


def test_scores_by_hand():
    clean = torch.rand(3, 3, 16, 16) * 2 - 1
    assert Utility.of(clean, clean).psnr == math.inf
    worse = Utility.of((clean + 0.1).clamp(-1, 1), clean)
    assert 0.005 < worse.mse < 0.011
    assert worse.psnr == pytest.approx(10 * math.log10(4 / worse.mse))
    assert worse.ssim < 1
    half = clean.clone()
    half[0] = -clean[0]
    found = Specificity.of(half, clean)
    assert found.success == pytest.approx(2 / 3)
    assert found.similarity == pytest.approx(1 / 3)


@pytest.mark.usefixtures("plain_inputs")
def test_nothing_from_outside_is_taken(benchmark, experts):
    clean, degraded = benchmark.train_pairs[0]
    real = BridgeModel.for_pairs(clean, degraded, components=8, width=8)
    for call in (
        lambda: ToyBackdoorBenchmark(real),
        lambda: ToyBackdoorBenchmark(clean),
        lambda: benchmark.evaluate(real),
        lambda: benchmark.evaluate(nn.Identity()),
        lambda: benchmark.merge([real, *experts[1:]]),
    ):
        with pytest.raises(TypeError, match=r"ShapesWorld|only bridges that it trained"):
            call()
    for call, said in (
        (lambda: benchmark.merge(experts[:2]), "experts must be 3, one for each task"),
        (lambda: ToyBackdoorBenchmark(_world(9), trigger_size=17), "trigger_size=17 must be at most 16"),
        (lambda: ToyBackdoorBenchmark(_world(9), targets=0), "targets=0"),
        (lambda: ToyBackdoorBenchmark(_world(9), targets=5), "targets=5 must be at most 4"),
        (lambda: ToyBackdoorBenchmark(_world(9), attacks=4), "attacks=4 must be at most 3"),
        (lambda: ToyBackdoorBenchmark(ShapesWorld(9, poison="fix")), "world is poisoned already"),
        (lambda: ToyBackdoorBenchmark(_world(9), task="colouring"), "task='colouring'"),
        (lambda: benchmark.train_single(steps=0), "steps=0"),
        (lambda: CleanFinetuneRepair().run(experts[0], clean, degraded, prune=(1,)), "needs a RoutedMixture"),
        (lambda: RouterAudit().run(experts[0], clean, degraded), "must have a RoutedMixture"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
