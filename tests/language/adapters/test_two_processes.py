"""Two gloo processes hold the same centroids, take the same route, and train as one on the union."""

import torch
from torch import distributed, nn

from equipoise.language import TuckASettings, apply_tucka
from two_processes import in_two_processes, needs_two_processes


def _batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, generator=generator).double() + shift for shift in (-2.0, 4.0)]


def _model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    apply_tucka(model, ["0", "2"], TuckASettings(r=2, k=4, alpha=9.0))
    return model


def _work(rank):
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
    return [*found, model[0].route.last.weights.tolist()]


@needs_two_processes
def test_two_processes_route_as_one():
    found = in_two_processes(_work)
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
