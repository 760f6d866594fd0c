import math

import pytest
import torch
from torch.autograd import gradcheck

from equipoise.multimodal import NegativeBank, cross_modal_npair_loss, multimodal_npair_loss


def _batch(n=6, d=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))


def _by_hand(face, voice, identity, offset):
    """The definition of the spec, a pair at a time."""

    def one_way(anchors, candidates):
        found = []
        for i, anchor in enumerate(anchors):
            scores = [float(c @ anchor / c.norm()) for c in candidates]
            others = [j for j in range(len(scores)) if identity[j] != identity[i]]
            found.append(math.log(1 + offset + sum(math.exp(scores[j] - scores[i]) for j in others)))
        return torch.tensor(found, dtype=torch.float64)

    return (one_way(voice, face) + one_way(face, voice)) / 2


@pytest.mark.parametrize("offset", [0.0, 4.4])
@pytest.mark.parametrize("identity", [[0, 1, 2, 3, 4, 5], [0, 1, 0, 2, 1, 0]])
def test_it_is_the_definition(identity, offset):
    face, voice = _batch()
    wanted = _by_hand(face, voice, identity, offset)
    found = cross_modal_npair_loss(face, voice, torch.tensor(identity), offset, "none")
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(cross_modal_npair_loss(face, voice, torch.tensor(identity), offset), wanted.mean())
    torch.testing.assert_close(cross_modal_npair_loss(face, voice, torch.tensor(identity), offset, "sum"), wanted.sum())


def test_without_identities_every_row_is_its_own():
    face, voice = _batch()
    torch.testing.assert_close(
        cross_modal_npair_loss(face, voice), cross_modal_npair_loss(face, voice, torch.arange(6) + 7)
    )


def test_the_modalities_may_change_places():
    face, voice = _batch()
    torch.testing.assert_close(
        cross_modal_npair_loss(face, voice, None, 1.0, "none"), cross_modal_npair_loss(voice, face, None, 1.0, "none")
    )


def test_the_norm_of_an_anchor_is_an_inverse_temperature_and_that_of_a_candidate_nothing():
    face, voice = _batch()
    voice = face + 0.1 * voice
    # Both sides are anchors once; matched pairs become surer with their norms.
    assert float(cross_modal_npair_loss(10 * face, 10 * voice)) < float(cross_modal_npair_loss(face, voice))


def test_gradients_are_those_of_finite_differences():
    face, voice = (x.requires_grad_() for x in _batch(4))
    bank = NegativeBank(5, 3).double()
    bank.push(*_batch(3, seed=2), torch.tensor([7, 1, 8]))
    identity = torch.tensor([0, 1, 1, 2])
    assert gradcheck(lambda a, b: cross_modal_npair_loss(a, b, identity, 0.3), (face, voice))
    assert gradcheck(lambda a, b: cross_modal_npair_loss(a, b, identity, 0.3, bank=bank.negatives()), (face, voice))


def test_a_bank_adds_negatives_and_no_positives():
    face, voice = _batch(3)
    old_face, old_voice = _batch(3, seed=5)
    bank = NegativeBank(3, 3).double()
    bank.push(old_face, old_voice, torch.tensor([10, 11, 2]))
    identity = torch.tensor([0, 1, 2])
    found = cross_modal_npair_loss(face, voice, identity, 0.0, "none", bank=bank.negatives())
    for i in range(3):
        terms = []
        for anchor, own, old in ((face[i], voice, old_voice), (voice[i], face, old_face)):
            candidates = torch.cat([own, old])
            scores = candidates @ anchor / candidates.norm(dim=1)
            kept = torch.tensor([j != i and [0, 1, 2, 10, 11, 2][j] != i for j in range(6)])
            terms.append(torch.log1p((scores - scores[i]).exp()[kept].sum()))
        torch.testing.assert_close(found[i], sum(terms) / 2)


def test_three_modalities_are_the_sum_of_three_pairs():
    one, two = _batch()
    three = one * 2 - two
    identity = torch.tensor([0, 1, 2, 3, 0, 1])
    wanted = sum(cross_modal_npair_loss(a, b, identity, 0.5) for a, b in ((one, two), (one, three), (two, three)))
    torch.testing.assert_close(multimodal_npair_loss([one, two, three], identity, 0.5), wanted)


@pytest.mark.parametrize("identity", [torch.tensor([3]), torch.tensor([3, 3, 3])])
def test_a_batch_of_one_identity_warns_and_has_the_loss_of_the_offset(identity):
    face, voice = _batch(len(identity))
    with pytest.warns(UserWarning, match="a batch of one identity has no negatives"):
        loss = cross_modal_npair_loss(face, voice, identity, 4.4)
    torch.testing.assert_close(loss, torch.tensor(math.log(5.4), dtype=torch.float64))


def test_a_zero_embedding_gives_no_nan():
    face, voice = _batch()
    face[1], voice[2] = 0, 0
    face.requires_grad_()
    loss = cross_modal_npair_loss(face, voice)
    loss.backward()
    assert bool(loss.isfinite())
    assert float(face.grad.abs().max()) < 100


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_extreme_embeddings_stay_finite(size):
    face, voice = (x.float().mul(size).requires_grad_() for x in _batch())
    loss = cross_modal_npair_loss(face, voice)
    loss.backward()
    assert bool(loss.isfinite())
    assert bool(face.grad.isfinite().all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"voice": torch.zeros(5, 3)}, "voice must have shape"),
        ({"voice": torch.zeros(4, 2)}, "voice must have shape"),
        ({"identity": torch.arange(4.0)}, "identity must hold integers"),
        ({"identity": torch.arange(3)}, "identity must have shape"),
        ({"identity": torch.tensor([0, 1, 2, -1])}, "identity holds the value -1"),
        ({"offset": -0.1}, "offset=-0.1 must"),
        ({"reduction": "max"}, "reduction='max' is not known"),
        ({"identity": None, "bank": "kept"}, "identity is missing"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused(change, message):
    bank = NegativeBank(2, 3)
    bank.push(torch.ones(2, 3), torch.ones(2, 3), torch.tensor([5, 6]))
    good = {"face": torch.randn(4, 3), "voice": torch.randn(4, 3), "identity": torch.arange(4)}
    if "bank" in change:
        change = {**change, "bank": bank.negatives()}
    with pytest.raises(ValueError, match=message):
        cross_modal_npair_loss(**{**good, **change})


@pytest.mark.usefixtures("plain_inputs")
def test_modalities_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="embeddings holds 1 modality"):
        multimodal_npair_loss([torch.zeros(2, 3)])
    with pytest.raises(ValueError, match="same shape in all modalities"):
        multimodal_npair_loss([torch.zeros(2, 3), torch.zeros(2, 4)])
