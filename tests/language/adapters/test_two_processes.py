"""Two gloo processes hold the same centroids, take the same route, and train as one on the union."""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed, nn

from equipoise.language import TuckASettings, apply_tucka


def _batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, generator=generator).double() + shift for shift in (-2.0, 4.0)]


def _model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    apply_tucka(model, ["0", "2"], TuckASettings(r=2, k=4, alpha=9.0))
    return model


def _work(rank, port, queue):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    model = _model()
    # Processes may have been seeded differently; the draw is that of the first.
    model[0].router.seed = rank
    model(_batches()[rank]).square().mean().backward()
    for value in model.parameters():
        if value.grad is not None:
            distributed.all_reduce(value.grad)
            value.grad /= 2
    router, last = model[0].router, model[0].route.last
    found = [router.centroids.detach().tolist(), int(last.group), last.weights.tolist(), router.centroids.grad.tolist()]
    model.eval()
    model(_batches()[rank])
    queue.put((rank, [*found, model[0].route.last.weights.tolist()]))
    distributed.destroy_process_group()


def _free_port():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.mark.skipif(not distributed.is_gloo_available(), reason="gloo is not there")
def test_two_processes_route_as_one():
    context = mp.get_context("spawn")
    queue, port = context.SimpleQueue(), _free_port()
    workers = [context.Process(target=_work, args=(rank, port, queue)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(240)
    assert all(worker.exitcode == 0 for worker in workers), "a process did not end in time, or crashed"
    found = dict(queue.get() for _ in range(2))
    model = _model()
    model(torch.cat(_batches())).square().mean().backward()
    router, last = model[0].router, model[0].route.last
    for rank in range(2):
        centroids, group, weights, gradient, alone = found[rank]
        torch.testing.assert_close(torch.tensor(centroids).double(), router.centroids.detach())
        assert group == int(last.group)
        torch.testing.assert_close(torch.tensor(weights).double(), last.weights)
        torch.testing.assert_close(torch.tensor(gradient).double(), router.centroids.grad)
        # In evaluation every process routes what it has.
        assert alone != weights
