import math

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn.functional import cross_entropy, normalize

from equipoise.multimodal import SharedIdentityClassifier, shared_identity_loss


def _batch(n=5, d=3, k=4):
    generator = torch.Generator().manual_seed(0)
    face, voice = (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2))
    classifier = torch.randn(k, d, generator=generator, dtype=torch.float64)
    return face, voice, classifier, torch.arange(n) % k


def test_each_sample_has_its_own_weight():
    face, voice, classifier, identity = _batch()
    weight = torch.tensor([1.5, 0.0, 0.5, 3.0, 1.0], dtype=torch.float64)
    each = [float(cross_entropy(side[i] @ classifier.T, identity[i]) + 0.0) for side in (face, voice) for i in range(5)]
    both = torch.tensor(each, dtype=torch.float64).view(2, 5).sum(0)
    found = shared_identity_loss(face, voice, classifier, identity, weight)
    torch.testing.assert_close(found, (both * weight).mean())
    # Not the mean loss times the mean weight, as in the authors' code.
    assert abs(float(found - both.mean() * weight.mean())) > 0.01
    torch.testing.assert_close(shared_identity_loss(face, voice, classifier, identity, weight, "none"), both * weight)


def test_the_module_is_its_matrix():
    face, voice, _, identity = _batch()
    module = SharedIdentityClassifier(4, 3, seed=1).double()
    bound = math.sqrt(6 / 7)
    assert float(module.weight.detach().abs().max()) <= bound
    torch.testing.assert_close(
        shared_identity_loss(face, voice, module, identity),
        shared_identity_loss(face, voice, module.weight, identity),
    )
    logits = module(face, voice)
    torch.testing.assert_close(logits[1], voice @ module.weight.T)


def test_the_same_weights_twice_are_the_gradient_of_both_modalities():
    face, voice, classifier, identity = _batch()
    classifier.requires_grad_()
    shared_identity_loss(face, voice, classifier, identity).backward()
    both = classifier.grad.clone()
    classifier.grad = None
    (cross_entropy(face @ classifier.T, identity) + cross_entropy(voice @ classifier.T, identity)).backward()
    torch.testing.assert_close(both, classifier.grad)


@pytest.mark.parametrize("kind", ["none", "cosine", "angle"])
def test_gradients_are_those_of_finite_differences(kind):
    face, voice, classifier, identity = _batch()
    leaves = [x.requires_grad_() for x in (face, voice, classifier)]
    weight = torch.rand(5, dtype=torch.float64)
    assert gradcheck(
        lambda a, b, w: shared_identity_loss(a, b, w, identity, weight, margin_kind=kind, margin=0.3, scale=4.0),
        leaves,
    )


def test_margins_are_of_the_own_identity_only():
    face, _, classifier, identity = _batch()
    cosine = normalize(face) @ normalize(classifier).T
    own = torch.nn.functional.one_hot(identity, 4).bool()
    for kind, changed in (("cosine", cosine - 0.3), ("angle", (cosine.acos() + 0.3).cos())):
        past = cosine.acos() + 0.3 > math.pi
        if kind == "angle":
            changed = torch.where(past, cosine - 0.3 * math.sin(0.3), changed)
        wanted = cross_entropy(7 * torch.where(own, changed, cosine), identity, reduction="none")
        found = shared_identity_loss(
            face, face, classifier, identity, None, "none", margin_kind=kind, margin=0.3, scale=7.0
        )
        torch.testing.assert_close(found, 2 * wanted)


def test_an_angle_goes_on_falling_beyond_the_half_turn():
    angles = torch.linspace(0, math.pi, 200, dtype=torch.float64)
    face = torch.stack([angles.cos(), angles.sin()], 1)
    classifier = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    identity = torch.zeros(200, dtype=torch.long)
    losses = shared_identity_loss(
        face, face, classifier, identity, None, "none", margin_kind="angle", margin=0.5, scale=5.0
    )
    assert bool((losses.diff() > -1e-9).all())


def test_a_perfect_cosine_and_a_zero_embedding_have_finite_gradients():
    face = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    for kind in ("cosine", "angle"):
        loss = shared_identity_loss(face, face, torch.eye(2), torch.tensor([0, 1, 0]), margin_kind=kind)
        (gradient,) = torch.autograd.grad(loss, face)
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identity": torch.tensor([0, 1, 4])}, "identity holds the value 4, wanted 0 to 3"),
        ({"identity": torch.tensor([0, 1, -1])}, "identity holds the value -1"),
        ({"identity": torch.tensor([0.0, 1.0, 2.0])}, "identity must hold integers"),
        ({"weight": torch.tensor([1.0, -1.0, 1.0])}, "weight must be at least 0"),
        ({"weight": torch.tensor([1.0, torch.nan, 1.0])}, "weight holds 1 NaN"),
        ({"weight": torch.zeros(3)}, "weight is 0 for all samples"),
        ({"voice": torch.zeros(3, 3)}, "voice must have shape"),
        ({"classifier": torch.zeros(4, 3)}, "classifier must have shape"),
        ({"classifier": SharedIdentityClassifier(4, 5)}, "face has 2 columns, the classifier's weights have 5"),
        ({"margin": 2.0}, "margin=2.0 must"),
        ({"margin_kind": "arc"}, "margin_kind='arc' is not known"),
    ],
)
@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused(change, message):
    good = {
        "face": torch.randn(3, 2),
        "voice": torch.randn(3, 2),
        "classifier": torch.randn(4, 2),
        "identity": torch.tensor([0, 1, 2]),
    }
    with pytest.raises(ValueError, match=message):
        shared_identity_loss(**{**good, **change})
