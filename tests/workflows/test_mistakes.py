"""From rendered frames to a report, and the parts on the way: cache, pooling, low-rank adaptation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from equipoise.core.models.low_rank import LoRALinear, add_lora, merge_lora, trainable_state_dict
from equipoise.data.procedures import procedure_world, split_recordings
from equipoise.longtail.mistakes.video_features import EmbeddingCache, MeanPoolVideoEncoder
from equipoise.workflows import MistakeDetector, Segments
from equipoise.workflows.mistakes import detect_mistakes


class Frames(nn.Module):
    """A tiny random encoder: pixels of each frame, pooled over time, projected."""

    def __init__(self, dim=48):
        super().__init__()
        self.q = nn.Linear(432, dim)

    def forward(self, clips):
        return self.q(clips.flatten(2)).relu().mean(1)


def sides(recordings=250, rate=0.15):
    parts = split_recordings(procedure_world(recordings, mistake_rate=rate, seed=1))
    return [Segments(p.context(), p.frames, p.target, recording=p.recording, kind=p.kind) for p in parts]


@pytest.mark.parametrize("method", ["experts", "collaboration"])
def test_frames_in_a_report_out_that_beats_never_speaking(method):
    train, val, test = sides()
    encoder = Frames().requires_grad_(False)
    report = detect_mistakes(
        train,
        val,
        test,
        method,
        coarse_encoder=encoder,
        fine_encoder=encoder,
        large_encoder=Frames(64).requires_grad_(False) if method == "collaboration" else None,
        epochs=15,
        lr=3e-3,
    )
    silent = len(test.target)
    silent = 0.5 * 2 * float((test.target == 0).sum()) / (silent + float((test.target == 0).sum()))
    assert report.metrics["macro_f1"] > silent + 0.1
    assert report.recall_by_kind[1] > 0.5
    assert report.recall_by_kind[2] > 0.25
    assert set(report.trust_by_kind) == ({1, 2} if method == "collaboration" else set())


def test_the_same_seed_gives_the_same_report():
    parts = sides(60)
    encoder = Frames().requires_grad_(False)
    options = {"coarse_encoder": encoder, "fine_encoder": encoder, "epochs": 2}
    first, second = (detect_mistakes(*parts, **options, seed=3) for _ in range(2))
    assert torch.equal(first.prob, second.prob)


def test_a_live_encoder_is_tuned_through_lora_only():
    encoder = Frames()
    add_lora(encoder, ("q",), r=4)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    detect_mistakes(*sides(40), coarse_encoder=Frames(), fine_encoder=encoder, epochs=1)
    changed = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"q.lora_a", "q.lora_b"}


@pytest.mark.parametrize("method", ["experts", "collaboration"])
def test_a_detector_scores_new_recordings_as_it_did_the_test_set_and_survives_the_disk(method, tmp_path):
    *parts, test = sides(60)
    encoder, large = Frames().requires_grad_(False), Frames(64).requires_grad_(False)
    encoders = {"coarse_encoder": encoder, "fine_encoder": encoder}
    if method == "collaboration":
        encoders["large_encoder"] = large
    report = detect_mistakes(*parts, test, method, **encoders, epochs=3)
    new = Segments(test.coarse[5:9], test.fine[5:9])
    detector = report.detector
    torch.testing.assert_close(detector.probabilities(new), report.prob[5:9])
    assert detector.predict(new).tolist() == (report.prob[5:9] >= detector.threshold).tolist()
    detector.save(tmp_path / "detector")
    again = MistakeDetector.load(tmp_path / "detector", **encoders)
    assert again.threshold == detector.threshold
    assert torch.equal(again.probabilities(test), detector.probabilities(test))
    with pytest.raises(FileNotFoundError, match=r"holds no detector\.json; name the folder that `save` wrote"):
        MistakeDetector.load(tmp_path)
    for wrong in ({}, encoders | {"fine_encoder": Frames()}):
        with pytest.raises(ValueError, match=r"(coarse|fine)_encoder is missing or is not the one"):
            MistakeDetector.load(tmp_path / "detector", **wrong)
    for name in ("detector.json", "detector.safetensors"):
        (tmp_path / "detector" / name).write_bytes(b"{")
        with pytest.raises(ValueError, match="is damaged, save the detector again"):
            MistakeDetector.load(tmp_path / "detector", **encoders)


def test_a_trained_encoder_is_part_of_its_detector(tmp_path):
    coarse, fine = Frames(), Frames()
    add_lora(fine, ("q",), r=4)
    *parts, test = sides(40)
    detector = detect_mistakes(*parts, test, coarse_encoder=coarse, fine_encoder=fine, epochs=2).detector
    wanted = detector.probabilities(test)
    detector.save(tmp_path)
    fresh = Frames()
    add_lora(fresh, ("q",), r=4)
    assert torch.equal(
        MistakeDetector.load(tmp_path, coarse_encoder=coarse, fine_encoder=fresh).probabilities(test), wanted
    )
    with pytest.raises(ValueError, match="fine_encoder is missing; its trained weights are in the folder"):
        MistakeDetector.load(tmp_path, coarse_encoder=coarse)


def test_segments_without_a_view_are_refused_and_unmarked_ones_can_only_be_scored(plain_inputs):
    view = torch.zeros(3, 4)
    with pytest.raises(ValueError, match="coarse must be"):
        Segments(None, view, torch.tensor([0, 1, 0]))
    with pytest.raises(ValueError, match="coarse has 2 rows for 3"):
        Segments(view[:2], view)
    with pytest.raises(ValueError, match="target is missing"):
        detect_mistakes(Segments(view, view), Segments(view, view), Segments(view, view))


def test_a_recording_on_two_sides_is_refused():
    train, _, test = sides(20)
    with pytest.raises(ValueError, match="two sides"):
        detect_mistakes(train, train, test)


def test_too_few_segments_for_a_held_out_gate_are_trained_jointly():
    train, val, test = sides(12, rate=0.4)
    with pytest.warns(UserWarning, match="training jointly"):
        detect_mistakes(
            train,
            val,
            test,
            "collaboration",
            coarse_encoder=Frames(),
            fine_encoder=Frames(),
            large_encoder=Frames(),
            epochs=1,
            gate_split=0.2,
        )


def test_lora_begins_as_the_frozen_layer_and_merges_to_a_plain_one():
    model = nn.ModuleDict({"q": nn.Linear(6, 5), "k": nn.Linear(6, 5, bias=False)}).double()
    x = torch.randn(3, 6).double()
    frozen = model["q"](x)
    assert add_lora(model, ("q", "v"), r=2) == ["q"]
    assert torch.equal(model["q"](x), frozen)
    nn.init.normal_(model["q"].lora_b)
    tuned = model["q"](x)
    assert set(trainable_state_dict(model)) == {"q.lora_a", "q.lora_b"}
    merge_lora(model)
    assert type(model["q"]) is nn.Linear
    torch.testing.assert_close(model["q"](x), tuned)


@pytest.mark.parametrize("r", [0, 6])
def test_a_rank_out_of_range_is_named(r):
    with pytest.raises(ValueError, match=r"1\.\.5"):
        LoRALinear(nn.Linear(6, 5), r=r)


def test_an_unknown_target_lists_candidates():
    with pytest.raises(ValueError, match="candidates: k"):
        add_lora(nn.ModuleDict({"k": nn.Linear(2, 2)}), ("q",), r=1)


def test_padding_frames_do_not_change_the_pooled_vector():
    encoder, frames = MeanPoolVideoEncoder(nn.Flatten()), torch.randn(2, 4, 1, 3, 3)
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    changed = frames.clone()
    changed[0, 2:] = 1e6
    torch.testing.assert_close(encoder(frames, mask), encoder(changed, mask))
    torch.testing.assert_close(encoder(frames, mask)[:1], encoder(frames[:1, :2]))


def test_a_video_without_frames_is_refused(plain_inputs):
    with pytest.raises(ValueError, match="video 1"):
        MeanPoolVideoEncoder(nn.Flatten())(torch.ones(2, 2, 1, 2, 2), torch.tensor([[True, True], [False, False]]))


def test_a_cache_survives_the_disk_and_knows_its_model(tmp_path):
    model = nn.Linear(3, 4)
    cache = EmbeddingCache.build(model, [(["a", "b"], torch.randn(2, 3)), (["b", "c"], torch.randn(2, 3))])
    assert list(cache) == ["a", "b", "c"]
    assert cache.values.dtype == torch.float16
    cache.save(tmp_path / "cache.safetensors")
    again = EmbeddingCache.load(tmp_path / "cache.safetensors", model)
    assert torch.equal(again.take(["c", "a", "c"]), cache.take(["c", "a", "c"]))
    with pytest.raises(KeyError, match="'d'"):
        again["d"]
    with pytest.raises(ValueError, match="another model"):
        EmbeddingCache.load(tmp_path / "cache.safetensors", nn.Linear(3, 4))
    with pytest.raises(ValueError, match="NaN"):
        EmbeddingCache(["a"], torch.tensor([[float("nan")]]), "")


def test_a_threshold_from_numpy_survives_the_disk(tmp_path):
    parts = [Segments(p.coarse.flatten(2).mean(1), p.fine.flatten(2).mean(1), p.target) for p in sides(40)]
    detector = detect_mistakes(*parts, epochs=1).detector
    dataclasses.replace(detector, threshold=np.float32(0.25)).save(tmp_path)
    assert MistakeDetector.load(tmp_path).threshold == 0.25
