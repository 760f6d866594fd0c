"""The geometric mean of Gaussians by integration, what a single bridge would lose by it, and what the optimum loses."""

import math

import pytest
import torch

from equipoise.generative import gaussian_geometric_mean, gaussian_label_average


@pytest.mark.parametrize(
    ("weight", "mean", "std"), [([0.5, 0.5], [-2.0, 3.0], [1.0, 0.5]), ([0.2, 0.3, 0.5], [0.0, 1.0, -1.0], [1, 2, 0.3])]
)
def test_it_is_the_product_of_powers_normalised(weight, mean, std):
    x = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    power = sum(-w * ((x - m) ** 2 / (2 * s**2) + math.log(s)) for w, m, s in zip(weight, mean, std, strict=True))
    density = (power - power.max()).exp()
    density /= density.sum()
    found = gaussian_geometric_mean(*(torch.tensor(each, dtype=torch.float64) for each in (weight, mean, std)))
    assert float(found.mean) == pytest.approx(float((density * x).sum()), rel=1e-5)
    assert float(found.std**2) == pytest.approx(float((density * (x - found.mean) ** 2).sum()), rel=1e-5)


def test_one_task_and_equal_tasks_are_left_as_they_are():
    for weight in ([1.0, 0.0], [0.4, 0.6]):
        mean = [0.7, -9.0] if weight[1] == 0 else [0.7, 0.7]
        found = gaussian_geometric_mean(torch.tensor(weight), torch.tensor(mean), torch.tensor([0.2, 0.2]))
        assert found.mean.dtype is torch.float32
        assert (float(found.mean), float(found.std)) == pytest.approx((0.7, 0.2))


def test_the_mean_of_distant_tasks_has_the_mass_of_none():
    """The paper's picture of a single bridge: between the tasks, five standard deviations from each of them."""
    weight, mean, std = torch.tensor([0.5, 0.5]), torch.tensor([-1.0, 1.0]), torch.tensor([0.2, 0.2])
    middle = gaussian_geometric_mean(weight, mean, std)
    assert float(middle.mean) == pytest.approx(0)
    assert float(middle.std) == pytest.approx(0.2)
    assert float(((middle.mean - mean) / std).abs().min()) == pytest.approx(5)


def test_the_optimum_of_the_squared_loss_separates_what_can_be_seen():
    """The remark on it: the posterior-weighted average finds each task where x shows it, and the middle where not."""
    weight, mean, std = torch.tensor([0.5, 0.5]), torch.tensor([-1.0, 1.0]), torch.tensor([0.2, 0.2])
    seen = gaussian_label_average(torch.tensor([-1.0, 0.0, 1.0]), weight, mean, std, spread=0.3)
    assert seen.tolist() == pytest.approx([-1, 0, 1], abs=1e-3)
    lost = gaussian_label_average(torch.tensor([-1.0, 1.0]), weight, mean, std, spread=30.0)
    assert lost.abs().max() < 0.01


def test_the_average_is_the_best_prediction():
    weight, mean, std, spread = [0.3, 0.7], [-1.0, 0.5], [0.3, 0.6], 0.5
    grid = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    for x in (-2.0, -0.3, 0.4, 3.0):
        prior = sum(w / s * (-((grid - m) ** 2) / (2 * s**2)).exp() for w, m, s in zip(weight, mean, std, strict=True))
        joint = prior * (-((x - grid) ** 2) / (2 * spread**2)).exp()
        found = gaussian_label_average(torch.tensor([x]), *map(torch.tensor, (weight, mean, std)), spread=spread)
        assert float(found) == pytest.approx(float((joint * grid).sum() / joint.sum()), rel=1e-4)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused():
    good = [torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])]
    for place, bad, said in (
        (0, torch.tensor([-0.5, 1.5]), "weight must be at least 0"),
        (0, torch.zeros(2), "weight must have an entry above 0"),
        (1, torch.zeros(3), "mean must have shape"),
        (2, torch.tensor([1.0, 0.0]), "std must be greater than 0"),
    ):
        given = [bad if k == place else each for k, each in enumerate(good)]
        with pytest.raises(ValueError, match=said):
            gaussian_geometric_mean(*given)
        with pytest.raises(ValueError, match=said):
            gaussian_label_average(torch.zeros(1), *given, spread=1.0)
