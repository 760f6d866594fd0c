"""What every public optimizer keeps in the loops that people write."""

import copy
import pickle

import lightning
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from contracts.bad_inputs import accepted
from contracts.model import Optimizer
from contracts.registry import contract, entered, parametrized  # noqa: F401

pytestmark = pytest.mark.usefixtures("contract", "plain_inputs")
CLASSES = 4
# One group of classes: PyTorch's own closure has all that is needed.
PLAIN = pytest.mark.parametrize("entry", [e for e in entered(Optimizer) if e.name.endswith(".SAM")], ids=str)


def _data():
    x = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(24) % CLASSES


def _network():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Linear(5, CLASSES)


def _optimizer(entry, params, **options):
    options = {"lr": 0.1, "momentum": 0.9, **options}
    made = entry.object(params, torch.optim.SGD, **entry.settings, **options)
    if hasattr(made, "set_epoch"):
        made.set_epoch(0)
    return made


def _losses(network, rows=slice(None)):
    x, y = _data()
    return lambda: (cross_entropy(network(x[rows]), y[rows], reduction="none"), y[rows])


def _moved(entry, steps=1, close=_losses, **options):
    network = _network()
    optimizer = _optimizer(entry, network.parameters(), **options)
    for _ in range(steps):
        optimizer.step(close(network))
    return network, optimizer


@parametrized(Optimizer)
def test_parts_of_a_batch_are_the_batch(entry):
    whole, _ = _moved(entry)
    parts, _ = _moved(entry, close=lambda network: [_losses(network, slice(0, 9)), _losses(network, slice(9, None))])
    torch.testing.assert_close(parts.weight, whole.weight)


@PLAIN
def test_pytorchs_closure_takes_the_same_step_whether_or_not_it_clears_gradients(entry):
    x, y = _data()
    wanted, _ = _moved(entry, steps=3)
    for clears in (True, False):
        network = _network()
        optimizer = _optimizer(entry, network.parameters())

        def closure(network=network, optimizer=optimizer, clears=clears):
            if clears:
                optimizer.zero_grad()
            loss = cross_entropy(network(x), y)
            loss.backward()
            return loss

        for _ in range(3):
            optimizer.step(closure)
        torch.testing.assert_close(network.weight, wanted.weight)


@PLAIN
def test_a_backward_before_the_step_is_refused_and_changes_nothing(entry):
    x, y = _data()
    network = _network()
    optimizer = _optimizer(entry, network.parameters())

    def closure():
        loss = cross_entropy(network(x), y)
        loss.backward()
        return loss

    closure()
    before = network.weight.detach().clone()
    with pytest.raises(RuntimeError, match="gradients before the step"):
        optimizer.step(closure)
    assert network.weight.equal(before)


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning")
@PLAIN
def test_accumulation_by_lightning_is_refused_rather_than_a_wrong_step(entry):
    x, y = _data()

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = _network()

        def training_step(self, batch, index):
            return cross_entropy(self.network(batch[0]), batch[1])

        def configure_optimizers(self):
            return _optimizer(entry, self.network.parameters())

    def run(size, parts):
        module = Module()
        trainer = lightning.Trainer(
            max_epochs=1,
            accelerator="cpu",
            accumulate_grad_batches=parts,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(TensorDataset(x, y), batch_size=size))
        return module.network.weight

    wanted, _ = _moved(entry)
    torch.testing.assert_close(run(24, 1), wanted.weight)
    with pytest.raises(RuntimeError, match="accumulate"):
        run(12, 2)


@parametrized(Optimizer)
def test_parameters_that_no_loss_sees_stay(entry):
    network, idle = _network(), nn.Linear(5, 2)
    kept = idle.weight.detach().clone()
    optimizer = _optimizer(entry, [*network.parameters(), *idle.parameters()], weight_decay=0.5)
    for _ in range(3):
        optimizer.step(_losses(network))
    assert idle.weight.equal(kept)
    assert idle.weight.grad is None


@parametrized(Optimizer)
def test_a_parameter_group_has_its_own_settings(entry):
    network = _network()
    weight, bias = network.weight.detach().clone(), network.bias.detach().clone()
    groups = [{"params": [network.weight]}, {"params": [network.bias], "lr": 0.0}]
    _optimizer(entry, groups).step(_losses(network))
    assert network.bias.equal(bias)
    assert not network.weight.equal(weight)


@PLAIN
def test_a_parameter_group_has_its_own_radius(entry):
    plain = _network()
    losses, _ = _losses(plain)()
    gradient = torch.autograd.grad(losses.mean(), [plain.weight, plain.bias])
    network = _network()
    groups = [{"params": [network.weight], "rho": 0.0}, {"params": [network.bias], "rho": 0.0}]
    _optimizer(entry, groups).step(_losses(network))
    torch.testing.assert_close(network.weight, plain.weight - 0.1 * gradient[0])
    still, _ = _moved(entry)
    assert not still.weight.equal(network.weight)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@parametrized(Optimizer)
def test_a_step_that_is_not_finite_is_never_taken(entry, bad):
    network = _network()
    kept = network.weight.detach().clone()
    _, target = _losses(network)()
    with pytest.raises(FloatingPointError, match="NaN or infinite"):
        _optimizer(entry, network.parameters()).step(lambda: (_losses(network)()[0] * bad, target))
    assert network.weight.equal(kept)
    optimizer = _optimizer(entry, network.parameters(), skip_nonfinite=True)
    with pytest.warns(UserWarning, match="left out"):
        optimizer.step(lambda: (_losses(network)()[0] * bad, target))
    assert network.weight.equal(kept)
    optimizer.step(_losses(network))
    assert not network.weight.equal(kept)


@parametrized(Optimizer)
def test_copies_pickles_and_loaded_states_go_on_alike(entry):
    network, optimizer = _moved(entry, steps=2)
    twins = [copy.deepcopy((network, optimizer)), pickle.loads(pickle.dumps((network, optimizer)))]
    loaded = _network()
    loaded.load_state_dict(network.state_dict())
    fresh = _optimizer(entry, loaded.parameters())
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    twins.append((loaded, fresh))
    optimizer.step(_losses(network))
    for twin, its in twins:
        its.step(_losses(twin))
        assert twin.weight.equal(network.weight)


@parametrized(Optimizer)
def test_perturbed_passes_leave_batch_norm_alone(entry):
    x, y = _data()
    statistics = []
    for passes in (1, None):
        network = nn.Sequential(_network(), nn.BatchNorm1d(CLASSES))
        network.train()
        if passes:
            network(x)
        else:
            optimizer = _optimizer(entry, network.parameters())
            optimizer.step(lambda net=network: (cross_entropy(net(x), y, reduction="none"), y))
        statistics.append(network[1].running_mean.clone())
    torch.testing.assert_close(*statistics)


@parametrized(Optimizer)
def test_global_state_is_left_alone(entry):
    state = torch.random.get_rng_state()
    _moved(entry)
    assert torch.random.get_rng_state().equal(state)


@parametrized(Optimizer)
def test_bad_settings_are_refused_by_name(entry):
    params = list(_network().parameters())
    wrong = accepted(
        entry.object.__init__,
        entry.settings,
        lambda bad: entry.object(params, torch.optim.SGD, **{**entry.settings, "lr": 0.1, **bad}),
    )
    assert not wrong, "\n".join(wrong)
