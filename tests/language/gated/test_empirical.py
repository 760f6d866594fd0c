"""Empirical tangent kernels against Jacobians, for layers of every kind and weights used in every way."""

import pytest
import torch
from torch import nn

from equipoise.language import (
    ConditionMonitor,
    GLUBlock,
    empirical_ntk,
    ntk_contributions,
    ntk_spectrum,
    two_layer_empirical_ntk,
    two_layer_ntk,
)

# The brute force by vmap warns of fused kernels that it has no rule for.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def _by_loops(model, x, names=None, readout=None):
    """(n, c, n, c) from the definition: the gradient of each output of each sample alone."""
    weights = [value for name, value in model.named_parameters() if names is None or name in names]
    rows = []
    for k in range(len(x)):
        out = model(x[k : k + 1])
        out = out if readout is None else readout(out)
        for one in out.reshape(-1):
            parts = torch.autograd.grad(one, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([each.flatten() for each in parts]))
    jacobian = torch.stack(rows).double()
    outputs = len(rows) // len(x)
    return (jacobian @ jacobian.T).reshape(len(x), outputs, len(x), outputs)


class _Sequence(nn.Module):
    """Word vectors, attention, a layer called twice, a bare parameter, and a head over words."""

    def __init__(self, tied=False):
        super().__init__()
        self.words = nn.Embedding(9, 8, padding_idx=0)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1)
        self.twice = nn.Linear(8, 8)
        self.norm = nn.RMSNorm(8)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 9, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, x):
        hidden = self.twice(torch.tanh(self.twice(self.block(self.words(x)))))
        return self.head(self.norm(hidden) * self.scale).mean(1)[:, :3]


class _TimeFirst(nn.Module):
    """Positions before samples, as many of both, so that shapes alone do not tell them apart."""

    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.out(torch.tanh(self.layer(x.transpose(0, 1))).cumsum(0).mean(0))


class _Borrowed(nn.Module):
    """A weight that is used where no hook sees it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return nn.functional.linear(torch.tanh(self.layer(x)), self.layer.weight).sum(1, keepdim=True)


def _conv():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, (3, 1), padding="same", dilation=2),
        nn.Tanh(),
        nn.Conv2d(3, 3, 3, groups=3),
        nn.Flatten(1),
        nn.Unflatten(1, (3, -1)),
        nn.Conv1d(3, 2, 2, padding=1),
        nn.Flatten(),
        nn.LazyLinear(2),
    )


_CASES = {
    "gated with biases": (lambda: GLUBlock(6, 20, 2, bias=True), lambda: torch.randn(7, 6)),
    "norms": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.BatchNorm1d(6), nn.Linear(6, 2)),
        lambda: torch.randn(6, 5),
    ),
    "convolutions": (_conv, lambda: torch.randn(5, 2, 8, 8)),
    "sequences": (_Sequence, lambda: torch.randint(0, 9, (5, 4))),
    "tied weights": (lambda: _Sequence(tied=True), lambda: torch.randint(0, 9, (5, 4))),
    "time first": (_TimeFirst, lambda: torch.randn(4, 4, 3)),
    "time first, two positions": (_TimeFirst, lambda: torch.randn(4, 2, 3)),
    "borrowed": (_Borrowed, lambda: torch.randn(5, 4)),
    "long sequences": (
        lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), nn.Flatten(), nn.Linear(80, 1)),
        lambda: torch.randn(4, 40, 2),
    ),
    "recurrent": (lambda: _Last(nn.GRU(3, 4, batch_first=True)), lambda: torch.randn(4, 5, 3)),
}


class _Last(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.out = net, nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.net(x)[0][:, -1])


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", _CASES)
def test_the_kernel_is_that_of_the_definition(case):
    make, inputs = _CASES[case]
    x = inputs()
    net = make().eval()
    net(x)
    if x.is_floating_point():
        net, x = net.double(), x.double()
    net = net.double()
    wanted = _by_loops(net, x)
    for chunk in (None, 2):
        full = empirical_ntk(net, x, reduction="full", chunk_size=chunk)
        torch.testing.assert_close(full, wanted, rtol=1e-9, atol=1e-10 * float(wanted.abs().max()))
        trace = torch.einsum("icjc->ij", wanted)
        found = empirical_ntk(net, x, chunk_size=chunk)
        torch.testing.assert_close(found, trace, rtol=1e-9, atol=1e-10 * float(trace.abs().max()))
        torch.testing.assert_close(empirical_ntk(net, x, reduction="mean", chunk_size=chunk), found / wanted.shape[1])
    parts = ntk_contributions(net, x, chunk_size=3)
    torch.testing.assert_close(sum(parts.values()), trace, rtol=1e-9, atol=1e-10 * float(trace.abs().max()))
    for name, part in parts.items():
        own = {f"{name}.{inner}".lstrip(".") for inner, _ in net.get_submodule(name).named_parameters(recurse=False)}
        if case != "tied weights":
            alone = torch.einsum("icjc->ij", _by_loops(net, x, own))
            torch.testing.assert_close(part, alone, rtol=1e-9, atol=1e-10 * float(trace.abs().max()))


def test_activations_in_place_are_contracted_too():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(inplace=True), nn.Linear(6, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    wanted = empirical_ntk(net, x, method="jacrev")
    torch.testing.assert_close(empirical_ntk(net, x, method="structured"), wanted)


@pytest.mark.parametrize("limit", [1 << 12, 1 << 14, 1 << 29])
def test_a_small_memory_limit_changes_nothing(limit):
    net = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)).eval()
    x = torch.randn(9, 6, 3)
    wanted = empirical_ntk(net, x, readout=lambda out: out.mean(1))
    found = empirical_ntk(net, x, readout=lambda out: out.mean(1), memory_limit=limit)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("reduction", ["trace", "full", "mean"])
def test_the_methods_agree(reduction):
    net, x = GLUBlock(5, 12, 3, "gelu", bias=True), torch.randn(6, 5)
    wanted = empirical_ntk(net, x, reduction=reduction, method="jacrev")
    for options in ({"method": "jacrev", "chunk_size": 2}, {"method": "structured"}, {"chunk_size": 4}):
        torch.testing.assert_close(empirical_ntk(net, x, reduction=reduction, **options), wanted)


@pytest.mark.parametrize("reduction", ["trace", "full", "mean"])
@pytest.mark.parametrize("activation", ["relu", "silu", "gelu_tanh"])
def test_the_closed_form_of_two_layers_is_that_of_the_block(activation, reduction):
    x = torch.randn(6, 4, dtype=torch.float64)
    for gated in (False, True):
        net = GLUBlock(4, 600, 2, activation, gated, match_params=False).double()
        p = net.up.weight if gated else None
        found = two_layer_empirical_ntk(x, net.gate.weight, net.down.weight, p, activation, reduction=reduction)
        torch.testing.assert_close(found, empirical_ntk(net, x, reduction=reduction))


def test_a_wide_net_has_nearly_the_expected_kernel():
    x = torch.randn(8, 10, dtype=torch.float64)
    for gated in (False, True):
        net = GLUBlock(10, 20_000, 1, "relu", gated, match_params=False)
        wanted = two_layer_ntk(x, 20_000, "relu", gated).ntk
        assert (empirical_ntk(net, x) - wanted).norm() < 0.06 * wanted.norm()


def test_parameters_are_chosen_by_patterns_and_by_what_is_trainable():
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), torch.randn(5, 3, dtype=torch.float64)
    weights = empirical_ntk(net, x, ["*weight"])
    torch.testing.assert_close(weights, torch.einsum("icjc->ij", _by_loops(net, x, {"0.weight", "2.weight"})))
    biases = empirical_ntk(net, x, ["*bias"])
    torch.testing.assert_close(weights + biases, empirical_ntk(net, x))
    net[0].requires_grad_(False)
    torch.testing.assert_close(
        empirical_ntk(net, x), torch.einsum("icjc->ij", _by_loops(net, x, {"2.weight", "2.bias"}))
    )
    torch.testing.assert_close(empirical_ntk(net, x, ["*weight"]), weights)
    assert [each.requires_grad for each in net.parameters()] == [False, False, True, True]


def test_a_model_in_half_precision_is_computed_in_float64_and_left_alone():
    net, x = GLUBlock(4, 6).to(torch.bfloat16), torch.randn(5, 4).to(torch.bfloat16)
    found = empirical_ntk(net, x)
    assert {each.dtype for each in net.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(found, empirical_ntk(net.double(), x.double()))
    single = empirical_ntk(net.float(), x.float(), dtype=torch.float32)
    torch.testing.assert_close(single, found, rtol=1e-4, atol=1e-4)


def test_inputs_by_name_inference_mode_and_kept_gradients():
    class _Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1)

        def forward(self, left, right):
            return self.layer(left) * self.layer(right)

    net, x = _Named().double(), {side: torch.randn(4, 3, dtype=torch.float64) for side in ("left", "right")}
    net.layer.weight.grad = torch.ones_like(net.layer.weight)
    wanted = empirical_ntk(net, x, method="jacrev")
    torch.testing.assert_close(empirical_ntk(net, x), wanted)
    with torch.no_grad():
        torch.testing.assert_close(empirical_ntk(net, x), wanted)
    assert net.layer.weight.grad.eq(1).all()


def test_a_monitor_keeps_the_mode_and_its_rows():
    net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))
    net[1].eval()
    monitor = ConditionMonitor(torch.randn(6, 4), ["*weight"])
    rows = [monitor.measure(net, step) for step in (0, 5)]
    assert [layer.training for layer in net] == [True, False, True, True, True]
    assert rows[0]["condition_number"] == rows[1]["condition_number"]
    assert monitor.history == rows
    assert [row["step"] for row in rows] == [0, 5]
    wanted = ntk_spectrum(empirical_ntk(net.eval(), monitor.probe, ["*weight"]))
    assert rows[0]["centred_condition_number"] == wanted.without_mean.condition_number


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_one_sentence():
    x = torch.randn(3, 4)
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"layer '1' is a batch norm.*model.eval\(\)"):
        empirical_ntk(net, x)
    net[1].eval()
    with pytest.raises(ValueError, match="layer '2' drops out"):
        empirical_ntk(net, x)
    with pytest.raises(ValueError, match="drops out"):
        empirical_ntk(_Last(nn.GRU(3, 4, num_layers=2, dropout=0.3, batch_first=True)), torch.randn(3, 2, 3))
    with pytest.raises(ValueError, match="statistics from the batch"):
        empirical_ntk(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval(), x)
    net.eval()
    with pytest.raises(ValueError, match="no trainable parameters"):
        empirical_ntk(nn.Linear(4, 2).requires_grad_(False), x)
    with pytest.raises(ValueError, match=r"'mlp', which is the name of no parameter"):
        empirical_ntk(net, x, ["mlp"])
    with pytest.raises(ValueError, match="x must be"):
        empirical_ntk(net, [1.0])
    with pytest.raises(ValueError, match="2 or more"):
        empirical_ntk(net, x[:1])
    with pytest.raises(ValueError, match="x holds 1 NaN"):
        empirical_ntk(net, x.clone().index_put_((torch.tensor([1]), torch.tensor([2])), torch.tensor(float("nan"))))
    with pytest.raises(ValueError, match=r"chunk_size=.*method='structured'"):
        empirical_ntk(net, x, method="jacrev", memory_limit=500)
    with pytest.raises(ValueError, match=r"gradients of '0\.weight' take"):
        empirical_ntk(_Wrapped(net), x, memory_limit=100)
    with pytest.raises(ValueError, match=r"outputs must be \(n, c\)"):
        empirical_ntk(nn.Linear(4, 2), torch.randn(3, 5, 4))
    with pytest.raises(ValueError, match="returns a tuple"):
        empirical_ntk(nn.GRU(4, 2, batch_first=True), torch.randn(3, 5, 4))
    with pytest.raises(ValueError, match="'layer' cannot be contracted"):
        empirical_ntk(_Borrowed(), x, method="structured")
    with pytest.raises(ValueError, match=r"dtype=torch\.float16"):
        empirical_ntk(net, x, dtype=torch.float16)


class _Wrapped(nn.Sequential):
    """Layers whose weights are used without them."""

    def __init__(self, net):
        super().__init__(*net)

    def forward(self, x):
        return nn.functional.linear(x, self[0].weight)
