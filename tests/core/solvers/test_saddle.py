import copy
import io
import pickle

import pytest
import torch
from torch import nn

from equipoise.core.solvers.saddle import SaddleLoss, descent_ascent, parameter_groups, saddle_losses, variables
from equipoise.core.solvers.saddle_solvers import AcceleratedDescentAscent, ProximalDescentAscent


class Quadratic(SaddleLoss):
    """½ xᵀQx + xᵀAg − gᵀg + b·x, whose saddle point solves a linear system; `data` shifts the batch's gradient."""

    def __init__(self, size=3, box=10.0, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.x = nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64))
        self.g = nn.Parameter(torch.randn(size, generator=generator, dtype=torch.float64))
        root = torch.randn(size, size, generator=generator, dtype=torch.float64)
        self.register_buffer("q", root @ root.T / size + torch.eye(size, dtype=torch.float64))
        self.register_buffer("a", torch.randn(size, size, generator=generator, dtype=torch.float64))
        self.register_buffer("b", torch.randn(size, generator=generator, dtype=torch.float64))
        self.box = box

    def min_parameters(self):
        return [self.x]

    def max_parameters(self):
        return [self.g]

    def bounds(self):
        return {self.x: (-self.box, self.box), self.g: (-self.box, self.box)}

    def forward(self, data=0.0):
        return self.x @ self.q @ self.x / 2 + self.x @ self.a @ self.g - self.g @ self.g + (self.b + data) @ self.x

    def saddle_point(self):
        x = torch.linalg.solve(self.q + self.a @ self.a.T / 2, -self.b)
        return x, self.a.T @ x / 2


def _closure(optimizer, loss, *data):
    def closure():
        optimizer.zero_grad()
        value = loss(*data)
        value.backward()
        return value

    return closure


def _by_pickle(things):
    return pickle.loads(pickle.dumps(things))


SOLVERS = {
    "SGD": lambda *modules: descent_ascent(torch.optim.SGD, *modules, lr=0.1),
    "Adam": lambda *modules: descent_ascent(torch.optim.Adam, *modules, lr=0.01),
    "accelerated": lambda *modules: AcceleratedDescentAscent(*modules, lr=0.3, m=8),
    "proximal": lambda *modules: ProximalDescentAscent(*modules, lr=0.1, clip=100.0),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_finds_the_saddle_point(name):
    loss = Quadratic()
    optimizer = SOLVERS[name](loss)
    for _ in range(1500):
        optimizer.step(_closure(optimizer, loss))
    x, g = loss.saddle_point()
    torch.testing.assert_close(loss.x.detach(), x, rtol=0, atol=1e-3)
    torch.testing.assert_close(loss.g.detach(), g, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", SOLVERS)
def test_variables_stay_in_their_boxes_and_the_network_is_free(name):
    loss, network = Quadratic(box=0.2), nn.Linear(3, 1).double()
    loss.project_()
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    optimizer = SOLVERS[name](network, loss)

    def closure():
        optimizer.zero_grad()
        value = loss(5.0) + (network(torch.ones(1, 3, dtype=torch.float64)) - 50.0).square().sum()
        value.backward()
        return value

    for _ in range(40):
        optimizer.step(closure)
        assert loss.x.abs().max() <= 0.2
        assert loss.g.abs().max() <= 0.2
    assert network(torch.ones(1, 3, dtype=torch.float64)).item() > 1


@pytest.mark.parametrize("name", SOLVERS)
def test_a_stopped_solver_goes_on_as_if_it_had_not_stopped(name):
    loss = Quadratic()
    optimizer = SOLVERS[name](loss)
    for step in range(6):
        optimizer.step(_closure(optimizer, loss, step / 10))
    if name == "proximal":
        optimizer.update_reference()
    file = io.BytesIO()
    torch.save({"loss": loss.state_dict(), "optimizer": optimizer.state_dict()}, file)
    for step in range(6):
        optimizer.step(_closure(optimizer, loss, step / 7))
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = Quadratic(seed=5)
    again.load_state_dict(saved["loss"])
    resumed = SOLVERS[name](again)
    resumed.load_state_dict(saved["optimizer"])
    for step in range(6):
        resumed.step(_closure(resumed, again, step / 7))
    assert torch.equal(again.x, loss.x)
    assert torch.equal(again.g, loss.g)


def test_weight_decay_is_for_the_network_only():
    network, loss = nn.Linear(2, 1), Quadratic()
    groups = parameter_groups(network, loss, lr=0.1, dual_lr={"g": 0.5}, weight_decay=0.3)
    assert [g["weight_decay"] for g in groups] == [0.3, 0.0, 0.0]
    assert [g["lr"] for g in groups] == [0.1, 0.1, 0.5]
    assert [g["maximize"] for g in groups] == [False, False, True]
    assert [g["role"] for g in groups] == ["the network", "x", "g"]


def test_a_loss_inside_a_module_and_given_twice_is_found_once():
    loss = Quadratic()
    whole = nn.ModuleDict({"network": nn.Linear(2, 1), "loss": nn.Sequential(loss)})
    assert list(saddle_losses(whole, loss)) == [loss]
    assert [v.name for v in variables(whole, loss)] == ["network.weight", "network.bias", "x", "g"]
    loss.x.requires_grad_(False)
    assert "x" not in [v.name for v in variables(whole)]


def test_the_estimate_of_a_network_includes_its_weight_decay():
    network = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, -2.0]]))
    optimizer = AcceleratedDescentAscent(network, lr=0.5, m=8, weight_decay=0.1)

    def closure():
        optimizer.zero_grad()
        value = network.weight.sum()
        value.backward()
        return value

    optimizer.step(closure)
    # eta_0 = 1/2: half way to w - lr (1 + 0.1 w).
    torch.testing.assert_close(network.weight.detach(), torch.tensor([[0.725, -2.2]]))


def test_noisy_gradients_of_the_accelerated_solver_average_out():
    ends = {}
    for name in ("SGD", "accelerated"):
        loss = Quadratic()
        noise = torch.Generator().manual_seed(1)
        if name == "SGD":
            optimizer = descent_ascent(torch.optim.SGD, loss, lr=0.05)
        else:
            # Moves as long as those of SGD: eta_0 lr = 0.05.
            optimizer = AcceleratedDescentAscent(loss, lr=0.5, m=1000, c1=3, c2=3)
        tail = []
        for step in range(3000):
            data = torch.randn(3, generator=noise, dtype=torch.float64)
            optimizer.step(_closure(optimizer, loss, data))
            if step >= 2000:
                tail.append(float((loss.x.detach() - loss.saddle_point()[0]).square().sum()))
        ends[name] = sum(tail) / len(tail)
    assert ends["accelerated"] < 0.5 * ends["SGD"]


def test_both_evaluations_see_the_same_dropout_and_batch_norm_counts_a_batch_once():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = AcceleratedDescentAscent(network, lr=1e-6, m=8)
    x, outputs = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), []

    def closure():
        optimizer.zero_grad()
        out = network(x)
        outputs.append(out.detach())
        out.square().mean().backward()
        return out.square().mean()

    twin = copy.deepcopy(network)
    optimizer.step(closure)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-4)
    twin(x)
    assert network[1].num_batches_tracked == 1
    torch.testing.assert_close(network[1].running_mean, twin[1].running_mean, rtol=0, atol=1e-5)


class Rows(SaddleLoss):
    """A maximised value for every training sample, gathered by index."""

    def __init__(self, size):
        super().__init__()
        self.c = nn.Parameter(torch.full((size, 1), 0.5))

    def max_parameters(self):
        return [self.c]

    def bounds(self):
        return {self.c: (0.0, 1.0)}

    def forward(self, index, gain):
        return (nn.functional.embedding(index, self.c, sparse=True).squeeze(1) * gain).mean()


def test_only_the_rows_of_the_batch_move():
    loss = Rows(6)
    optimizer = AcceleratedDescentAscent(loss, lr=1.0, m=8)
    optimizer.step(_closure(optimizer, loss, torch.tensor([1, 4]), torch.tensor([1.0, -1.0])))
    assert loss.c[[0, 2, 3, 5]].eq(0.5).all()
    assert loss.c[1] > 0.5 > loss.c[4]
    still = loss.c[1].clone()
    optimizer.step(_closure(optimizer, loss, torch.tensor([0, 0]), torch.tensor([1.0, 1.0])))
    assert loss.c[1] == still
    # A row that is drawn twice gets the sum of both gradients: 1, and eta_1 = 9^(-1/3) of the way to the bound.
    assert loss.c[0].item() == pytest.approx(0.5 + 0.5 / 9 ** (1 / 3), rel=1e-6)


def test_rows_that_were_seen_are_known_after_a_resumption():
    drawn = [(torch.tensor([1, 4]), torch.tensor([1.0, -1.0])), (torch.tensor([4, 2]), torch.tensor([2.0, 0.5]))]
    loss, again = Rows(6), Rows(6)
    optimizer = AcceleratedDescentAscent(loss, lr=1.0, m=8)
    optimizer.step(_closure(optimizer, loss, *drawn[0]))
    resumed = AcceleratedDescentAscent(again, lr=1.0, m=8)
    again.load_state_dict(loss.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for solver, rows in ((optimizer, loss), (resumed, again)):
        for batch in drawn[::-1]:
            solver.step(_closure(solver, rows, *batch))
    assert torch.equal(again.c, loss.c)
    assert optimizer.state[loss.c]["seen"].tolist() == [0, 1, 1, 0, 1, 0]


def test_the_reference_of_what_gets_no_gradient_is_itself():
    network = nn.Sequential(nn.Linear(2, 1), nn.Linear(2, 1))
    optimizer = ProximalDescentAscent(network, lr=0.5)
    for _ in range(3):
        optimizer.step(_closure(optimizer, lambda: network[0](torch.ones(1, 2)).square().mean()))
    optimizer.update_reference()
    torch.testing.assert_close(optimizer.state[network[1].weight]["reference"], network[1].weight.detach())


def test_the_reference_point_is_the_mean_of_a_stage_and_pulls():
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(1.0)
    optimizer = ProximalDescentAscent(network, lr=0.5, momentum=0.0, epoch_decay=0.1, clip=1.0)
    for gradient in (10.0, -0.2):
        network.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
    # 1 -> 0.5 (clipped) -> 0.5 - 0.5 (-0.2 + 0.1 (0.5 - 1)) = 0.625
    assert network.weight.item() == pytest.approx(0.625)
    optimizer.update_reference()
    network.weight.grad = torch.tensor([[0.0]])
    optimizer.step()
    reference = (0.5 + 0.625) / 2
    assert network.weight.item() == pytest.approx(0.625 - 0.5 * 0.1 * (0.625 - reference))


def test_past_directions_are_weighed_by_the_momentum():
    network = nn.Linear(1, 1, bias=False)
    network.weight.data.fill_(0.0)
    optimizer = ProximalDescentAscent(network, lr=1.0, momentum=0.25, epoch_decay=0.0)
    for gradient in (0.4, -0.8):
        network.weight.grad = torch.tensor([[gradient]])
        optimizer.step()
    assert network.weight.item() == pytest.approx(-0.4 - (0.25 * 0.4 - 0.75 * 0.8))


class DescentOnly(torch.optim.Optimizer):
    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})


def test_misuse_is_said():
    loss = Quadratic()
    with pytest.raises(TypeError, match="closure"):
        AcceleratedDescentAscent(loss).step()
    with pytest.raises(ValueError, match="eta_0 must be <= 1"):
        AcceleratedDescentAscent(loss, k=3, m=8)
    with pytest.raises(ValueError, match="m=0"):
        AcceleratedDescentAscent(loss, m=0)
    with pytest.raises(ValueError, match="'gamma', which no loss declares; the declared variables are 'x', 'g'"):
        parameter_groups(loss, lr=0.1, dual_lr={"gamma": 1.0})
    with pytest.raises(ValueError, match="no parameter"):
        descent_ascent(torch.optim.SGD, nn.ReLU(), lr=0.1)
    with pytest.raises(ValueError, match="DescentOnly cannot ascend"):
        descent_ascent(DescentOnly, loss, lr=0.1)
    with pytest.raises(ValueError, match=r"momentum=1"):
        ProximalDescentAscent(loss, momentum=1.0)
    with pytest.raises(TypeError, match="no closed-form"):
        loss.initialize(torch.zeros(2), torch.tensor([0, 1]))
    loss.box = -1.0
    with pytest.raises(ValueError, match="lower bound 1 is above the upper bound -1"):
        loss.project_()


@pytest.mark.parametrize(("sides", "message"), [("both", "both minimised and"), ("none", "neither minimised nor")])
def test_every_variable_has_one_role(sides, message):
    class Odd(Quadratic):
        def min_parameters(self):
            return [self.x, self.g] if sides == "both" else []

    with pytest.raises(ValueError, match=message):
        variables(Odd())


@pytest.mark.parametrize("copied", [copy.deepcopy, _by_pickle, lambda things: _by_pickle(copy.deepcopy(things))])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_copy_goes_on_alike_and_keeps_the_boxes(name, copied):
    loss = Quadratic(box=0.05)
    optimizer = SOLVERS[name](loss)
    optimizer.step(_closure(optimizer, loss))
    other, twin = copied((loss, optimizer))
    seen = []
    twin.register_step_post_hook(lambda *_: seen.append(1))
    for one, solver in ((loss, optimizer), (other, twin)):
        for _ in range(3):
            solver.step(_closure(solver, one))
    assert len(seen) == 3
    assert float(other.x.detach().abs().max()) <= 0.05
    assert float(other.g.detach().abs().max()) <= 0.05
    for one, again in ((loss.x, other.x), (loss.g, other.g)):
        torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert not any(p is q for p in loss.parameters() for q in other.parameters())


def test_the_optimizer_is_one_of_the_class_that_was_asked_for_and_the_class_itself_is_left_alone():
    loss = Quadratic()
    made = descent_ascent(torch.optim.SGD, loss, lr=0.1, momentum=0.5)
    assert isinstance(made, torch.optim.SGD)
    assert repr(made).startswith("SGD (")
    assert type(made) is type(descent_ascent(torch.optim.SGD, loss, lr=0.1))
    assert type(torch.optim.SGD(loss.parameters(), lr=0.1)) is torch.optim.SGD
    again = _by_pickle(torch.optim.SGD(Quadratic().parameters(), lr=0.1))
    assert type(again) is torch.optim.SGD
    scheduler = torch.optim.lr_scheduler.StepLR(made, 1, gamma=0.5)
    made.step(_closure(made, loss))
    scheduler.step()
    assert made.param_groups[0]["lr"] == 0.05
