import pytest
import torch
from torch import distributed, nn
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from equipoise.core.distributed import gather_batch, gather_rows, gather_states, world_size
from equipoise.openworld import EDGELoss
from equipoise.ranking import (
    AUPRCLoss,
    DRAUCLoss,
    ExactPartialSquareLoss,
    InstancewisePartialAUCLoss,
    MinMaxAUCLoss,
    MulticlassAUCLoss,
    MultiTaskAUCLoss,
    PairwiseAUCLoss,
    PartialAUCLoss,
    SOPRCLoss,
    UnbiasedInstancewisePartialAUCLoss,
    WeightedPartialAUCLoss,
)

# Batches of two processes: uneven, one class only on a process, nothing on a process.
SHARES = {"even": (12, 12), "uneven": (17, 7), "one class each": (6, 18), "an empty batch": (24, 0)}


def _edge(**options):
    """Of three classes the last ones are outliers, which no process but one may have."""

    def value(gather):
        loss = EDGELoss(0.5, 0.7, k=5, margin=1.0, gather=gather, **options)

        def of(scores, y):
            known = y != 2
            return loss(scores[known], nn.functional.one_hot(y[known], 3), scores[~known])

        return of

    return value


LOSSES = {
    "energy gap": (_edge(), 3),
    "energy gap of rare labels": (_edge(tail="labels", class_counts=(9, 5, 3), num_head=1), 3),
    "auc": (lambda gather: PairwiseAUCLoss(gather=gather), 1),
    "logistic": (lambda gather: PairwiseAUCLoss("logistic", gather=gather), 1),
    "partial": (lambda gather: PartialAUCLoss(0.3, 0.5, gather=gather), 1),
    "weighted partial": (lambda gather: WeightedPartialAUCLoss("exp", 8.0, detach_weights=False, gather=gather), 1),
    "average precision": (lambda gather: AUPRCLoss(0.2, tau1=0.5, gather=gather), 1),
    "exact partial square": (lambda gather: ExactPartialSquareLoss(0.5, 0.5, gather=gather), 1),
    "instance-wise": (lambda gather: InstancewisePartialAUCLoss(0.5, 0.5, gather=gather), 1),
    "instance-wise, unbiased": (lambda gather: UnbiasedInstancewisePartialAUCLoss(0.5, 0.5, gather=gather), 1),
    "min-max": (lambda gather: MinMaxAUCLoss(gather=gather).double(), 1),
    "min-max, closed form": (lambda gather: MinMaxAUCLoss(inner="closed_form", gather=gather).double(), 1),
    "distributionally robust": (lambda gather: DRAUCLoss(gather=gather).double(), 1),
    "retrieval": (lambda gather: SOPRCLoss([8, 8, 8], tau1=0.5, gather=gather).double(), 3),
    "multiclass": (lambda gather: MulticlassAUCLoss("exponential", activation="softmax", gather=gather), 3),
}


def _problem(columns):
    generator = torch.Generator().manual_seed(columns)
    x = torch.randn(24, 4, generator=generator, dtype=torch.float64)
    y = (torch.arange(24) < 6).long() if columns == 1 else torch.arange(24) % 3
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, columns)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return x, y, network


def _train_a_step(network, loss, x, y):
    scores = network(x)
    value = loss(scores.squeeze(1) if scores.shape[1] == 1 else scores, y)
    value.backward()
    # What a loss learns has the gradient of the union on every process already.
    learned = [*network.parameters(), *(loss.parameters() if isinstance(loss, nn.Module) else ())]
    return value.item(), torch.cat([p.grad.flatten() for p in learned if p.grad is not None]).tolist()


def _users_step(loss, rows, wrap=lambda network: network):
    x, y, network = _problem(1)
    user = torch.arange(24) % 3
    return _train_a_step(wrap(network), lambda scores, target: loss(scores, target, user[rows]), x[rows], y[rows])


def _process(rank, store, results):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    found = {"world": world_size()}
    for share, (first, _) in SHARES.items():
        rows = slice(0, first) if rank == 0 else slice(first, None)
        for name, (make, columns) in LOSSES.items():
            x, y, network = _problem(columns)
            found[share, name] = _train_a_step(DistributedDataParallel(network), make(True), x[rows], y[rows])
    own = torch.full((rank + 1, 2), float(rank), requires_grad=True)
    scores, target, weight = gather_batch(own, torch.tensor([True, False])[: rank + 1], torch.ones(rank + 1))
    (scores * torch.arange(6.0).reshape(3, 2)).sum().backward()
    for share, (first, _) in SHARES.items():
        rows = slice(0, first) if rank == 0 else slice(first, None)
        found[share, "users"] = _users_step(MultiTaskAUCLoss(gather=True), rows, DistributedDataParallel)
    kept = torch.ones(2, dtype=torch.bool) if rank == 0 else torch.tensor([0.1, 2.0], dtype=torch.float64)
    found["states"] = [piece.tolist() for piece in gather_states(kept)]
    found["rows"] = scores.tolist(), target.tolist(), weight.tolist(), own.grad.tolist()
    results[rank] = found
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    with mp.get_context("spawn").Manager() as manager:
        results = manager.dict()
        mp.spawn(_process, args=(tmp_path_factory.mktemp("gloo") / "store", results), nprocs=2)
        return dict(results)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("share", SHARES)
def test_two_processes_have_the_loss_and_the_averaged_gradient_of_one(two_processes, share, name):
    make, columns = LOSSES[name]
    x, y, network = _problem(columns)
    value, gradient = _train_a_step(network, make(False), x, y)
    assert max(map(abs, gradient)) > 1e-3
    for rank in (0, 1):
        found_value, found_gradient = two_processes[rank][share, name]
        assert found_value == pytest.approx(value, rel=1e-12)
        assert found_gradient == pytest.approx(gradient, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("share", SHARES)
def test_users_are_spread_over_processes(two_processes, share):
    value, gradient = _users_step(MultiTaskAUCLoss(), slice(None))
    for rank in (0, 1):
        assert two_processes[rank][share, "users"][0] == pytest.approx(value, rel=1e-12)
        assert two_processes[rank][share, "users"][1] == pytest.approx(gradient, rel=1e-9, abs=1e-12)


def test_rows_come_in_the_order_of_ranks_and_each_gets_its_own_gradient(two_processes):
    for rank, own in ((0, [[0.0, 2.0]]), (1, [[4.0, 6.0], [8.0, 10.0]])):
        scores, target, weight, gradient = two_processes[rank]["rows"]
        assert scores == [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]
        assert target == [True, True, False]
        assert weight == [1.0, 1.0, 1.0]
        assert gradient == own
        assert two_processes[rank]["world"] == 2


def test_states_of_two_dtypes_are_promoted_to_one(two_processes):
    assert two_processes[0]["states"] == two_processes[1]["states"] == [[1.0, 1.0], [0.1, 2.0]]


def test_one_process_gathers_nothing():
    scores = torch.zeros(3, requires_grad=True)
    assert gather_rows(scores) is scores
    assert PairwiseAUCLoss(gather=True)(scores, torch.tensor([1, 0, 0])) == 1.0
