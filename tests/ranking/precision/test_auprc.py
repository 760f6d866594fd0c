import copy
import io
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from equipoise.ranking import AUPRCLoss, average_precision, smooth_ap_loss, soprc_query_loss
from equipoise.ranking.precision.auprc import semi_variance, soprc_interpolate, true_positive_rate


def _l1(x, tau):
    if x >= tau:
        return 0.0
    return (x / tau - 1) ** 2 if x >= 0 else 1 - 2 * x / tau


def _l2(x, tau):
    return 0.0 if x >= 0 else 2 / (1 + math.exp(max(x / tau, -700))) - 1


def _by_hand(pos, neg, v, prior, tau1, tau2):
    total = 0.0
    for p in pos:
        false = sum(_l1(p - n, tau1) for n in neg) / len(neg)
        true = (1 + sum(_l2(p - m, tau2) for m in v)) / (len(v) + 1)
        r = (1 - prior) / prior * false / true
        total += r / (1 + r)
    return total / len(pos)


# Multiples of 1/8 give ties and scores on the edges of the steps.
_scores = st.lists(st.one_of(st.integers(-8, 8).map(lambda k: k / 8), st.floats(-1, 1)), min_size=1, max_size=12)


@given(_scores, _scores, _scores, st.sampled_from([0.01, 0.3, 0.9]), st.sampled_from([0.125, 0.03, 1.0]))
def test_the_query_loss_is_the_double_loop(pos, neg, v, prior, tau1):
    tensors = [torch.tensor(x, dtype=torch.float64) for x in (pos, neg, v)]
    value = soprc_query_loss(*tensors, prior, tau1=tau1, tau2=0.05)
    assert value.item() == pytest.approx(_by_hand(pos, neg, v, prior, tau1, 0.05), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("tpr_grad", [False, True])
def test_gradients_are_those_of_finite_differences(tpr_grad):
    generator = torch.Generator().manual_seed(0)
    pos, neg, v = (torch.rand(n, generator=generator, dtype=torch.float64) * 2 - 1 for n in (6, 30, 9))
    rate = true_positive_rate(pos, v, 0.2, grad=False)

    def loss(pos, neg):
        if tpr_grad:
            return soprc_query_loss(pos, neg, v, 0.1, tau1=0.3, tau2=0.2, tpr_grad=True)
        # The rate held constant, written out.
        lead = pos[:, None] - neg
        short = (0.3 - lead).clamp_min(0) / 0.3
        false = torch.where(short <= 1, short**2, 2 * short - 1).mean(1)
        r = 9 * false / rate
        return (r / (1 + r)).mean()

    pos.requires_grad_()
    neg.requires_grad_()
    found = torch.autograd.grad(soprc_query_loss(pos, neg, v, 0.1, tau1=0.3, tau2=0.2, tpr_grad=tpr_grad), (pos, neg))
    for k, x in enumerate((pos, neg)):
        for i in range(len(x)):
            step = torch.zeros_like(x)
            step[i] = 1e-6
            sides = [
                [p.detach() + (sign * step if j == k else 0) for j, p in enumerate((pos, neg))] for sign in (1, -1)
            ]
            assert found[k][i].item() == pytest.approx((loss(*sides[0]) - loss(*sides[1])).item() / 2e-6, abs=1e-6)


def test_a_second_derivative_is_refused_rather_than_wrong():
    pos, neg = torch.tensor([0.5], requires_grad=True), torch.tensor([0.45])
    (slope,) = torch.autograd.grad(soprc_query_loss(pos, neg, torch.zeros(2), 0.5), pos, create_graph=True)
    with pytest.raises(RuntimeError, match="first-order gradients only"):
        slope.sum().backward()


def test_nothing_of_size_positives_times_negatives_is_made_and_extremes_stay_finite():
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(400_000) < 40_000
    scores = (torch.randn(400_000, generator=generator) + target).requires_grad_()
    loss = AUPRCLoss(0.1, num_v=5)
    loss(scores, target).backward()
    assert scores.grad.isfinite().all()
    far = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    AUPRCLoss(0.5)(far, torch.tensor([1, 1, 0, 0])).backward()
    assert far.grad.isfinite().all()


@pytest.mark.parametrize("ratio", [(8, 56), (32, 32)])
def test_the_estimate_does_not_follow_the_sampling_rate_as_the_ap_of_the_batch_does(ratio):
    generator = torch.Generator().manual_seed(0)
    n_pos, n_neg = ratio
    v = ((torch.randn(100_000, generator=generator) + 1.2) / 3).tanh().quantile(torch.linspace(0.005, 0.995, 100))
    ours, batch = [], []
    for _ in range(150):
        pos = ((torch.randn(n_pos, generator=generator) + 1.2) / 3).tanh()
        neg = (torch.randn(n_neg, generator=generator) / 3).tanh()
        ours.append(1 - soprc_query_loss(pos, neg, v, 0.02).item())
        batch.append(average_precision(torch.cat([pos, neg]), torch.arange(n_pos + n_neg) < n_pos).item())
    # The data's AP is 0.115.
    assert abs(sum(ours) / 150 - 0.115) < 0.1
    assert sum(batch) / 150 > 0.4


def test_interpolation_by_hand():
    # 3 scores for 7 values: ceil(7 / 3) = 3 a score, the last two left out.
    s = [-0.2, 0.1, 0.9]
    around = [2 * s[0] - s[1], *s, min(2 * s[2] - s[1], 1.0)]
    wanted = []
    for i in (1, 2, 3):
        for j in range(3):
            left = around[i - 1] + j / 3 * (around[i] - around[i - 1])
            wanted.append((left + around[i] + j / 3 * (around[i + 1] - around[i])) / 2)
    found = soprc_interpolate(torch.tensor([0.9, -0.2, 0.1], dtype=torch.float64), 7)
    assert found.tolist() == pytest.approx(wanted[:7])
    assert soprc_interpolate(torch.tensor([0.3]), 4).tolist() == pytest.approx([0.3] * 4)
    rows = torch.rand(2, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(soprc_interpolate(rows, 9), torch.stack([soprc_interpolate(row, 9) for row in rows]))
    assert soprc_interpolate(torch.tensor([-1.0, 1.0]), 4).abs().max() <= 1


def test_spread_on_the_wrong_side():
    pos, neg = torch.tensor([0.0, 0.5, 1.0, 0.1]), torch.tensor([0.0, 0.0, 0.6])
    wanted = 2 * (0.4**2 + 0.3**2) / 2 + 3 * 0.4**2
    assert semi_variance(pos, neg, 2.0, 3.0).item() == pytest.approx(wanted)
    assert semi_variance(torch.full((4,), 0.3), torch.zeros(0)) == 0
    double = [x.double().requires_grad_() for x in (pos, neg)]
    assert torch.autograd.gradcheck(semi_variance, double)


def test_v_follows_the_positives_in_training_only_and_is_saved():
    loss = AUPRCLoss(0.1, beta=0.5, num_v=4)
    scores, target = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1, 1, 0])
    before = loss.v.clone()
    loss.eval()
    loss(scores, target)
    assert torch.equal(loss.v, before)
    loss.train()
    loss(scores, target)
    squeezed = torch.tanh(scores[:2] / 2)
    torch.testing.assert_close(loss.v, (before + soprc_interpolate(squeezed, 4)) / 2)
    file = io.BytesIO()
    torch.save(loss.state_dict(), file)
    file.seek(0)
    again = AUPRCLoss(0.1, num_v=4)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(again.v, loss.v)


def test_many_positives_are_all_seen_by_v():
    loss = AUPRCLoss(0.5, beta=1.0, num_v=10)
    scores = torch.linspace(-3, 3, 1001)
    loss(torch.cat([scores, torch.zeros(3)]), torch.arange(1004) < 1001)
    assert loss.v[-1] > 0.8
    assert loss.v[0] < -0.8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_precision_gives_its_own_back(dtype):
    scores = torch.tensor([1.0, -0.5, 0.2, 0.1], dtype=dtype, requires_grad=True)
    value = AUPRCLoss(0.2)(scores, torch.tensor([1, 0, 1, 0]))
    value.backward()
    assert value.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert scores.grad.dtype is dtype
    wanted = AUPRCLoss(0.2)(scores.detach().double(), torch.tensor([1, 0, 1, 0]))
    assert value.item() == pytest.approx(wanted.item(), rel=0.05)


@pytest.mark.parametrize("loss", [AUPRCLoss(0.2), smooth_ap_loss])
def test_a_batch_of_one_class_gives_zero_that_stays_attached(loss):
    scores = torch.randn(4, requires_grad=True)
    with pytest.warns(UserWarning, match="is zero on a batch of 0 positives"):
        value = loss(scores, torch.zeros(4, dtype=torch.long))
    value.backward()
    assert value == 0
    assert torch.equal(scores.grad, torch.zeros(4))


def test_smooth_ap_comes_near_the_ap_of_the_batch_as_its_steps_sharpen():
    scores = torch.randn(60, generator=torch.Generator().manual_seed(1))
    target = torch.arange(60) < 9
    wanted = 1 - average_precision(scores, target).item()
    assert smooth_ap_loss(scores, target, temperature=1e-4).item() == pytest.approx(wanted, abs=1e-3)
    assert torch.autograd.gradcheck(
        lambda s: smooth_ap_loss(s, target, temperature=0.5), scores.double().requires_grad_()
    )


def test_training_raises_average_precision():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(600, 3, generator=generator), torch.arange(600) < 30
    x[:, 0] += 1.5 * y
    model, loss = torch.nn.Linear(3, 1), AUPRCLoss(0.05)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.3, -0.3]]))
    start = average_precision(model(x).squeeze(1).detach(), y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        loss(model(x).squeeze(1), y).backward()
        optimizer.step()
    assert average_precision(model(x).squeeze(1).detach(), y) > start + 0.2


def test_a_copy_moves_its_own_v():
    loss = AUPRCLoss(0.2)
    twin = copy.deepcopy(loss)
    twin(torch.randn(5), torch.tensor([1, 0, 1, 0, 0]))
    assert not torch.equal(twin.v, loss.v)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AUPRCLoss(0.0), "prior=0.0"),
        (lambda: AUPRCLoss(0.5, tau1=0), "tau1=0"),
        (lambda: AUPRCLoss(0.5, tau2=-1), "tau2=-1"),
        (lambda: AUPRCLoss(0.5, beta=1.5), "beta=1.5"),
        (lambda: AUPRCLoss(0.5, num_v=1), "num_v=1 must be a whole number at least 2"),
        (lambda: AUPRCLoss(0.5)(torch.tensor([float("nan"), 1.0]), torch.tensor([0, 1])), "NaN"),
        (lambda: soprc_query_loss(torch.zeros(0), torch.zeros(2), torch.zeros(3), 0.1), "sim_pos is empty"),
        (lambda: soprc_interpolate(torch.zeros(0), 4), "sim_pos is empty"),
        (lambda: semi_variance(torch.zeros(2), torch.zeros(2), -1.0, 1.0), "lambda_pos=-1"),
        (lambda: smooth_ap_loss(torch.zeros(2), torch.tensor([0, 1]), temperature=0.0), "temperature=0"),
    ],
)
def test_bad_input_is_named(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()
