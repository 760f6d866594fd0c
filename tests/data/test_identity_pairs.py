import pytest
import torch

from equipoise.data import make_identity_pairs


def test_sizes_and_who_can_be_learned():
    world = make_identity_pairs(160, 120, seed=1)
    assert world.train.face.shape == world.train.voice.shape == (640, 48)
    assert world.test.identity.unique().tolist() == list(range(120))
    assert int((~world.train.learnable).sum()) == 48
    assert bool(world.test.learnable.all())
    assert world.train.group.unique().tolist() == [0, 1]


def test_the_group_is_of_the_identity():
    part = make_identity_pairs(20, 10).train
    assert all(len(part.group[part.identity == k].unique()) == 1 for k in range(20))


def test_without_noise_the_face_tells_the_voice_of_the_learnable_alone():
    part = make_identity_pairs(60, 4, samples=2, unlearnable=0.5, noise=0.0, private=0, features=30).train
    assert part.face[0].equal(part.face[1])
    inverse = [torch.atanh(side[::2].double().clamp(-1 + 1e-7, 1 - 1e-7)) for side in (part.face, part.voice)]
    # A linear map from one to the other, found on half of the learnable.
    learnable = part.learnable.nonzero().squeeze(1)
    fitted = torch.linalg.lstsq(inverse[0][learnable[:15]], inverse[1][learnable[:15]], driver="gelsd").solution
    error = (inverse[0] @ fitted - inverse[1]).norm(dim=1) / inverse[1].norm(dim=1)
    assert float(error[learnable].max()) < 0.1
    assert float(error[~part.learnable].min()) > 0.3


def test_a_seed_is_a_world():
    one, two, other = (make_identity_pairs(8, 4, seed=seed) for seed in (3, 3, 4))
    assert one.train.face.equal(two.train.face)
    assert not one.train.face.equal(other.train.face)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("settings", "message"),
    [({"unlearnable": 1.0}, "unlearnable=1.0"), ({"num_train": 1}, "num_train=1"), ({"noise": -1.0}, "noise=-1.0")],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make_identity_pairs(**settings)
