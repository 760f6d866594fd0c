import pytest
import torch

from equipoise.multimodal import (
    MultimodalAlignmentLoss,
    TwoLevelAlignmentLoss,
    cross_modal_npair_loss,
    shared_identity_loss,
)


def _batch(n=6, d=3):
    generator = torch.Generator().manual_seed(0)
    sides = [torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2)]
    return (*sides, torch.tensor([0, 1, 2, 3, 0, 1])[:n], torch.rand(n, generator=generator, dtype=torch.float64))


def test_it_is_the_weighted_sum_of_its_parts():
    face, voice, identity, weight = _batch()
    loss = TwoLevelAlignmentLoss(4, 3, offset=0.5, local_weight=2.0, global_weight=0.7).double()
    parts = loss(face, voice, identity, weight)
    entropies = shared_identity_loss(face, voice, loss.classifier, identity, None, "none")
    local = cross_modal_npair_loss(face, voice, identity, 0.5, "none")
    torch.testing.assert_close(parts["face_ce"] + parts["voice_ce"], entropies.detach())
    torch.testing.assert_close(parts["local"], local)
    torch.testing.assert_close(parts["loss"], (weight * (0.7 * entropies + 2 * local)).mean())
    assert not parts["face_ce"].requires_grad
    assert parts["loss"].requires_grad


def test_a_weight_of_two_is_a_sample_counted_twice():
    face, voice, identity, _ = _batch()
    loss = TwoLevelAlignmentLoss(4, 3, local_weight=0.0).double()
    twice = torch.tensor([0, 1, 2, 3, 4, 5, 5])
    weight = torch.ones(6, dtype=torch.float64)
    weight[5] = 2
    found = loss(face, voice, identity, weight)["loss"] * 6
    torch.testing.assert_close(found, loss(face[twice], voice[twice], identity[twice])["loss"] * 7)


def test_the_bank_serves_the_next_batch_in_training_only():
    face, voice, identity, _ = _batch()
    loss = TwoLevelAlignmentLoss(9, 3, bank_size=6).double()
    alone = loss.eval()(face, voice, identity)["local"]
    assert loss.bank.negatives() is None
    torch.testing.assert_close(loss.train()(face, voice, identity)["local"], alone)
    assert len(loss.bank.negatives().identity) == 6
    more = loss(voice, face, identity + 4)["local"]
    assert bool((more > loss.eval()(voice, face, identity + 4)["local"] * 0).all())
    fresh = TwoLevelAlignmentLoss(9, 3).double()
    assert bool((more >= fresh(voice, face, identity + 4)["local"]).all())
    other = TwoLevelAlignmentLoss(9, 3, bank_size=6).double()
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(other(face, voice, identity)["loss"], loss(face, voice, identity)["loss"])


def test_two_modalities_are_a_case_of_many():
    face, voice, identity, weight = _batch()
    two, many = TwoLevelAlignmentLoss(4, 3).double(), MultimodalAlignmentLoss(4, 3).double()
    many.load_state_dict(two.state_dict())
    found = many([face, voice], identity, weight)
    torch.testing.assert_close(found["loss"], two(face, voice, identity, weight)["loss"])
    torch.testing.assert_close(found["ce"][1], two(face, voice, identity, weight)["voice_ce"])
    three = many([face, voice, face + voice], identity, weight)
    assert three["ce"].shape == (3, 6)


def test_training_brings_the_modalities_together():
    generator = torch.Generator().manual_seed(0)
    face, voice = torch.randn(12, 5, generator=generator), torch.randn(12, 7, generator=generator)
    towers = torch.nn.Linear(5, 8), torch.nn.Linear(7, 8)
    loss = TwoLevelAlignmentLoss(12, 8)
    parameters = [p for module in (*towers, loss) for p in module.parameters()]
    optimizer, values = torch.optim.Adam(parameters, lr=0.05), []
    for _ in range(60):
        optimizer.zero_grad()
        parts = loss(towers[0](face), towers[1](voice), torch.arange(12))
        parts["loss"].backward()
        optimizer.step()
        values.append(parts["loss"].item())
    assert values[-1] < 0.2 * values[0]
    units = [torch.nn.functional.normalize(tower(x)) for tower, x in zip(towers, (face, voice), strict=True)]
    assert (units[0] @ units[1].T).argmax(1).tolist() == list(range(12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": torch.tensor([0, 1, 9])}, "identity holds the value 9"),
        ({"weight": torch.zeros(3)}, "weight is 0 for all samples"),
        ({"voice": torch.zeros(2, 3)}, "voice must have shape"),
        ({"face": torch.zeros(3, 2), "voice": torch.zeros(3, 2)}, "face has 2 columns"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused(change, message):
    good = {"face": torch.randn(3, 3), "voice": torch.randn(3, 3), "identity": torch.arange(3)}
    with pytest.raises(ValueError, match=message):
        TwoLevelAlignmentLoss(4, 3)(**{**good, **change})


@pytest.mark.usefixtures("plain_inputs")
def test_a_loss_of_nothing_is_refused():
    with pytest.raises(ValueError, match="local_weight and global_weight are both 0"):
        TwoLevelAlignmentLoss(4, 3, local_weight=0.0, global_weight=0.0)
