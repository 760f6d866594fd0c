"""The procedure world: seeded, split by recording, with mistakes that show where they should."""

from __future__ import annotations

import pytest
import torch

from equipoise.data.procedures import CORRECT, GLOBAL, LOCAL, procedure_world, split_recordings


def test_a_seed_makes_a_world():
    first, again, other = (procedure_world(20, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.kind, again.kind)
    assert not torch.equal(first.frames, other.frames)


def test_mistakes_are_as_rare_as_asked_and_of_both_kinds():
    world = procedure_world(800, mistake_rate=0.1)
    assert float(world.target.double().mean()) == pytest.approx(0.1, abs=0.02)
    assert float((world.kind == LOCAL).double().sum() / world.target.sum()) == pytest.approx(0.5, abs=0.1)


def test_only_a_global_mistake_breaks_the_workflow():
    world = procedure_world(200, mistake_rate=0.3)
    in_place = world.action == (world.step + world.workflow) % 6
    assert torch.equal(in_place, world.kind != GLOBAL)


def test_a_global_mistake_looks_like_the_same_action_done_right_and_a_local_one_does_not():
    world = procedure_world(300, mistake_rate=0.4, noise=0.0)
    for action in range(6):
        of_kind = [world.frames[(world.action == action) & (world.kind == kind)] for kind in (CORRECT, LOCAL, GLOBAL)]
        assert all(len(clips) for clips in of_kind)
        assert (of_kind[2] == of_kind[0][0]).all()
        assert not (of_kind[1] == of_kind[0][0]).flatten(1).all(1).any()


def test_no_recording_is_on_two_sides_and_none_is_lost():
    parts = split_recordings(procedure_world(11), (0.8, 0.1, 0.1))
    names = [set(part.recording.tolist()) for part in parts]
    assert sum(map(len, names)) == 11 == len(set.union(*names))
    assert all(names)
    assert all(len(part) == 6 * len(of) for part, of in zip(parts, names, strict=True))


def test_the_context_is_what_came_just_before():
    world = procedure_world(5)
    context = world.context()
    for k in range(len(world)):
        wanted = world.titles[world.recording[k]] if world.step[k] == 0 else world.frames[k - 1]
        assert torch.equal(context[k], wanted)
    later = world.rows(world.step > 0)
    assert torch.equal(later.context()[0], world.titles[0])


@pytest.mark.parametrize(
    "wrong", [{"recordings": 0}, {"workflows": 7}, {"length": 1}, {"num_frames": 3}, {"mistake_rate": 1.0}]
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        procedure_world(**{"recordings": 5, **wrong})


def test_more_parts_than_recordings_are_refused():
    with pytest.raises(ValueError, match="recordings"):
        split_recordings(procedure_world(2))
