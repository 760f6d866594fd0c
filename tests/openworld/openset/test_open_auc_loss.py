import pytest
import torch
from torch import nn

from equipoise.core.scores import HIGHER_IS_OUT
from equipoise.openworld.openset.classifier import UNKNOWN, OpenSetClassifier
from equipoise.openworld.openset.open_auc_loss import (
    OpenAUCLoss,
    manifold_mixup_outliers,
    max_logit,
    open_auc_pair_loss,
)


def _draw(seed=0, n=7, m=5, c=4):
    g = torch.Generator().manual_seed(seed)
    known, fake = (torch.randn(k, c, generator=g, dtype=torch.float64) for k in (n, m))
    target = known.argmax(1)
    target[::3] = (target[::3] + 1) % c
    return known, target, fake, torch.rand(m, generator=g) < 0.6


def _loop(known, target, fake, valid, aligned):
    total, count = torch.zeros((), dtype=torch.float64), 0
    for i in range(len(known)):
        for j in range(len(fake)):
            if (not aligned or i == j) and known[i].argmax() == target[i] and valid[j]:
                total, count = total + (1 - (known[i].max() - fake[j].max())) ** 2, count + 1
    return total / max(count, 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_pair_loss_is_its_double_loop(seed):
    known, target, fake, valid = _draw(seed)
    torch.testing.assert_close(open_auc_pair_loss(known, target, fake, valid), _loop(known, target, fake, valid, False))
    aligned = open_auc_pair_loss(known[:5], target[:5], fake, valid.long(), pairing="aligned")
    torch.testing.assert_close(aligned, _loop(known[:5], target[:5], fake, valid, True))


@pytest.mark.parametrize("pairing", ["all", "aligned"])
@pytest.mark.parametrize("surrogate", ["square", "logistic", "squared_hinge"])
def test_gradients_are_those_of_finite_differences(pairing, surrogate):
    known, target, fake, valid = _draw(1, n=5)
    assert torch.autograd.gradcheck(
        lambda a, b: open_auc_pair_loss(a, target, b, valid, pairing=pairing, surrogate=surrogate),
        (known.requires_grad_(), fake.requires_grad_()),
    )


def test_only_the_largest_logit_gets_a_gradient_and_one_of_several_that_tie():
    known = torch.tensor([[2.0, 2.0, 0.0]], requires_grad=True)
    fake = torch.tensor([[0.0, 1.0, 1.0]], requires_grad=True)
    open_auc_pair_loss(known, torch.tensor([0]), fake).backward()
    assert int((known.grad != 0).sum()) == int((fake.grad != 0).sum()) == 0
    (open_auc_pair_loss(known * 2, torch.tensor([0]), fake)).backward()
    assert int((known.grad != 0).sum()) == int((fake.grad != 0).sum()) == 1


def test_nothing_right_or_nothing_valid_is_zero_with_a_graph():
    known, target, fake, valid = _draw()
    for pairing in ("all", "aligned"):
        for t, v in (((known.argmax(1) + 1) % 4, valid), (target, torch.zeros(5, dtype=torch.bool))):
            x = known[:5].clone().requires_grad_()
            value = open_auc_pair_loss(x, t[:5], fake, v, pairing=pairing)
            value.backward()
            assert float(value.detach()) == 0
            assert float(x.grad.abs().sum()) == 0


def test_aligned_and_all_pairs_have_the_same_expectation():
    known, target, fake, valid = _draw(2, n=6, m=6)
    g = torch.Generator().manual_seed(0)
    # The aligned loss divides by the pairs that count, so the sums are compared.
    sums = []
    for _ in range(4000):
        order = torch.randperm(6, generator=g)
        hit = known.argmax(1) == target
        pairs = (hit & valid[order]).sum()
        sums.append(open_auc_pair_loss(known, target, fake[order], valid[order], pairing="aligned") * pairs)
    expected = open_auc_pair_loss(known, target, fake, valid) * hit.sum() * valid.sum() / 6
    assert float(torch.stack(sums).mean()) == pytest.approx(float(expected), rel=0.03)


def test_mixtures_lie_between_their_two_and_are_valid_across_classes():
    x = torch.eye(6).double()
    mixed, valid = manifold_mixup_outliers(
        x, torch.tensor([0, 0, 1, 1, 2, 2]), generator=torch.Generator().manual_seed(3)
    )
    torch.testing.assert_close(mixed.sum(1), torch.ones(6).double())
    share = mixed.diagonal().min()
    partner = (mixed - share * x).argmax(1)
    assert bool((mixed >= 0).all())
    assert valid.tolist() == [i // 2 != int(j) // 2 for i, j in enumerate(partner)]
    again = manifold_mixup_outliers(x, torch.tensor([0, 0, 1, 1, 2, 2]), generator=torch.Generator().manual_seed(3))
    assert torch.equal(mixed, again[0])


def test_mixing_weights_follow_their_beta():
    g = torch.Generator().manual_seed(0)
    x, shares = torch.tensor([[1.0], [0.0]]), []
    while len(shares) < 2000:
        mixed, valid = manifold_mixup_outliers(x, torch.tensor([0, 1]), alpha=2.0, generator=g)
        if bool(valid.all()):
            shares.append(float(mixed[0]))
    shares = torch.tensor(shares)
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(shares.var()) == pytest.approx(1 / 20, abs=0.005)


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU()).double(), nn.Linear(8, 4).double()


def test_the_objective_splits_the_batch_and_mixes_its_second_half():
    body, head = _model()
    x, y = torch.randn(9, 3).double(), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0])
    z = body(x)
    loss = OpenAUCLoss(lam=0.5, pairing="aligned")
    value = loss(head(z), y, embedding=z, head=head, generator=torch.Generator().manual_seed(1))
    mixed, valid = manifold_mixup_outliers(z[4:8], y[4:8], 2.0, torch.Generator().manual_seed(1))
    pairs = _loop(head(z)[:4], y[:4], head(mixed), valid, True)
    torch.testing.assert_close(value, nn.functional.cross_entropy(head(z), y) + 0.5 * pairs)


def test_outliers_from_elsewhere_meet_the_whole_batch():
    body, head = _model()
    x, y, fake = torch.randn(6, 3).double(), torch.arange(6) % 4, torch.randn(3, 4).double()
    logits = head(body(x))
    closed, pairs = OpenAUCLoss().terms(logits, y, fake_logits=fake)
    torch.testing.assert_close(pairs, _loop(logits, y, fake, [True] * 3, False))
    torch.testing.assert_close(closed, nn.functional.cross_entropy(logits, y))


def test_three_samples_make_no_mixtures():
    body, head = _model()
    z = body(torch.randn(3, 3).double())
    assert float(OpenAUCLoss().terms(head(z), torch.arange(3), embedding=z, head=head).pairs.detach()) == 0


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_says_what_is_missing():
    logits, y = torch.randn(4, 3), torch.arange(4) % 3
    loss = OpenAUCLoss()
    with pytest.raises(ValueError, match="give one of them"):
        loss(logits, y)
    with pytest.raises(ValueError, match="head is missing"):
        loss(logits, y, embedding=logits)
    with pytest.raises(ValueError, match="embedding is missing"):
        loss(logits, y, head=nn.Identity(), fake_logits=logits)
    with pytest.raises(ValueError, match="classes = 3"):
        loss(logits, y, fake_logits=torch.randn(4, 5))
    with pytest.raises(ValueError, match="fake_valid"):
        loss(logits, y, embedding=logits, head=nn.Identity(), fake_valid=torch.ones(4))
    with pytest.raises(ValueError, match="4 and 2"):
        open_auc_pair_loss(logits, y, logits[:2], pairing="aligned")
    with pytest.raises(ValueError, match="surrogate"):
        OpenAUCLoss(surrogate="sqare")


def test_a_threshold_keeps_the_wanted_share_of_known_samples_and_travels_with_the_weights():
    g = torch.Generator().manual_seed(0)
    held_out = torch.randn(200, 5, generator=g)
    model = OpenSetClassifier(nn.Linear(5, 3))
    cut = model.calibrate(torch.utils.data.DataLoader(held_out, batch_size=64), recall=0.9)
    assert cut.rate == 0.9
    found = model.predict(held_out)
    assert float(found.accepted.float().mean()) == pytest.approx(0.9)
    assert torch.equal(found.label == UNKNOWN, ~found.accepted)
    assert torch.equal(found.closed_label[found.accepted], found.label[found.accepted])
    copy = OpenSetClassifier(nn.Linear(5, 3))
    copy.load_state_dict(model.state_dict())
    assert torch.equal(copy.predict(held_out).label, found.label)
    guaranteed = model.calibrate([(held_out, None)], recall=0.9, confidence=0.95)
    assert guaranteed.value < cut.value


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_wanted_share_is_kept_in_half_precision(dtype):
    """Many scores tie with the lowest that is to be accepted; a threshold rounded to it would reject them."""
    held_out = (8 + torch.randn(200, 5, generator=torch.Generator().manual_seed(0))).to(dtype)
    model = OpenSetClassifier(nn.Identity(), score=lambda z: z.amax(1))
    for given in (held_out, held_out.float()):
        assert model.calibrate([given], recall=0.96).rate >= 0.96
        for used in (held_out, held_out.float()):
            assert float(model.to(dtype).predict(used).accepted.double().mean()) >= 0.96
    copy = OpenSetClassifier(nn.Identity()).to(dtype)
    copy.load_state_dict(model.state_dict())
    assert copy.threshold == model.threshold


def test_a_score_that_points_outwards_rejects_from_above():
    logits = torch.tensor([[5.0, 0.0], [4.0, 0.0], [3.0, 0.0], [1.0, 0.0]])
    model = OpenSetClassifier(nn.Identity(), score=lambda z: -max_logit(z), spec=HIGHER_IS_OUT)
    model.calibrate([logits], recall=0.75)
    assert model.predict(logits).accepted.tolist() == [True, True, True, False]
    assert model.predict(logits).score.tolist() == [-5, -4, -3, -1]


def test_prediction_needs_a_threshold_and_leaves_modes_alone():
    model = OpenSetClassifier(nn.Sequential(nn.Dropout(), nn.Identity())).train()
    with pytest.raises(RuntimeError, match="calibrate"):
        model.predict(torch.ones(2, 3))
    with pytest.raises(ValueError, match="no samples"):
        model.calibrate([])
    with pytest.raises(ValueError, match="no samples"):
        model.calibrate([torch.ones(0, 3)])
    with pytest.raises(ValueError, match=r"recall=95 .* did you mean 0\.95"):
        model.calibrate([torch.ones(2, 3)], recall=95)
    model.calibrate([torch.ones(2, 3)])
    assert all(part.training for part in model.modules())


def test_a_score_that_points_outwards_is_turned_in_the_pair_loss():
    def outward(logits):
        return -max_logit(logits)

    outward.spec = HIGHER_IS_OUT
    known, fake = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.5, 0.0]])
    target = torch.tensor([0, 1])
    assert torch.equal(open_auc_pair_loss(known, target, fake, score=outward), open_auc_pair_loss(known, target, fake))
