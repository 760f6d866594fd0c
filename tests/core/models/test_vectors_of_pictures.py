import numpy as np
import pytest
import torch

from equipoise.core.models.principal import PrincipalAutoencoder
from equipoise.core.models.vector_denoiser import VectorDenoiser, step_features


def _pictures(n=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 12, generator=generator).cumsum(1).view(n, 3, 2, 2)


def test_components_are_those_of_a_singular_value_decomposition():
    pictures = _pictures()
    coder = PrincipalAutoencoder((3, 2, 2), 4, scale=3.0).fit(pictures)
    rows = pictures.flatten(1).double().numpy()
    _, values, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    found = np.abs(coder.encode(pictures).numpy())
    expected = np.abs((rows - rows.mean(0)) @ axes[:4].T) / (values[0] / np.sqrt(len(rows))) * 3
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert float(coder.encode(pictures)[:, 0].std(correction=0)) == pytest.approx(3.0, rel=1e-4)


def test_decoding_is_the_nearest_picture_of_the_components():
    pictures = _pictures()
    coder = PrincipalAutoencoder((3, 2, 2), 4).fit(pictures)
    back = coder.decode(coder.encode(pictures))
    torch.testing.assert_close(coder.encode(back), coder.encode(pictures), atol=1e-4, rtol=1e-4)
    best = (back - pictures).square().mean()
    for seed in range(3):
        other = coder.decode(
            coder.encode(pictures) + 0.1 * torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))
        )
        assert (other - pictures).square().mean() > best


def test_the_components_do_not_depend_on_the_order_of_pictures():
    pictures = _pictures()
    first, second = (PrincipalAutoencoder((3, 2, 2), 3).fit(given) for given in (pictures, pictures.flip(0)))
    torch.testing.assert_close(first.encode(pictures), second.encode(pictures), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PrincipalAutoencoder((3, 2, 2), 13), "components=13"),
        (lambda: PrincipalAutoencoder((3, 2, 2), 2, 0.0), "scale"),
        (lambda: PrincipalAutoencoder((3, 2, 2), 4).fit(_pictures(3)), "at least as many pictures"),
        (lambda: PrincipalAutoencoder((3, 2, 2), 4).fit(_pictures() * torch.nan), "pictures"),
        (lambda: PrincipalAutoencoder((3, 2, 2), 4).fit(torch.ones(9, 3, 2, 2)), "alike"),
        (lambda: PrincipalAutoencoder((3, 2, 2), 4).encode(torch.ones(2, 3, 4)), "pictures must have shape"),
        (lambda: PrincipalAutoencoder((3, 2, 2), 4).decode(torch.ones(2, 3)), "latents must have shape"),
        (lambda: VectorDenoiser(0), "size=0"),
        (lambda: VectorDenoiser(2, time_features=3), "time_features=3"),
        (lambda: VectorDenoiser(2, 3)(torch.ones(1, 2), torch.zeros(1)), "size 3, got 0"),
        (lambda: VectorDenoiser(2)(torch.ones(1, 2), torch.zeros(1), torch.ones(1, 3)), "size 0, got 3"),
    ],
)
def test_bad_input_is_refused(make, message, plain_inputs):
    with pytest.raises(ValueError, match=message):
        make()


def test_step_features_are_sines_and_cosines():
    found = step_features(torch.tensor([3.0]), 6, period=1000.0)[0]
    angles = 3 * torch.tensor([1.0, 0.1, 0.01])
    torch.testing.assert_close(found, torch.cat([angles.cos(), angles.sin()]))


def test_a_new_network_predicts_zero_and_learns_from_step_and_condition():
    torch.manual_seed(0)
    network = VectorDenoiser(3, 2, width=16, blocks=2)
    x, steps, condition = torch.randn(64, 3), torch.randint(100, (64,)), torch.randn(64, 2)
    assert bool((network(x, steps, condition) == 0).all())
    wanted = x * (steps[:, None] > 50) + condition.sum(1, keepdim=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(300):
        loss = (network(x, steps, condition) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    assert bool((network(x, steps.flip(0), condition) != network(x, steps, condition)).any())
