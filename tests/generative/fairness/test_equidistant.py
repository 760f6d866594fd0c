import pytest
import torch

from equipoise.generative import attribute_distances, equalized_odds_loss, equidistant_projection


def _drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _unit(x):
    return x / x.norm(dim=-1, keepdim=True)


def test_two_values_have_the_closed_form():
    text, centers = _unit(_drawn(7)), _unit(_drawn(2, 7, seed=1))
    u = centers[0] - centers[1]
    wanted = _unit(text - (text @ u) / (u @ u) * u)
    torch.testing.assert_close(equidistant_projection(text, centers), wanted)


@pytest.mark.parametrize("values", [2, 3, 5])
def test_cosines_are_equal_and_no_other_such_vector_is_closer(values):
    text, centers = _drawn(8), _drawn(values, 8, seed=1)
    found = equidistant_projection(text, centers)
    cosines = _unit(centers) @ found
    torch.testing.assert_close(cosines, cosines.mean().expand(values))
    torch.testing.assert_close(equalized_odds_loss(found[None], centers[None]), torch.zeros((), dtype=torch.float64))
    differences = _unit(centers)[1:] - _unit(centers)[:1]
    free = torch.linalg.svd(differences)[2][values - 1 :]
    others = _unit(_drawn(4000, len(free), seed=2) @ free)
    assert float((others @ _unit(text)).max()) <= float(found @ _unit(text)) + 1e-12


def test_it_is_idempotent_and_works_row_by_row():
    text, centers = _drawn(4, 6), _drawn(4, 3, 6, seed=1)
    found = equidistant_projection(text, centers)
    torch.testing.assert_close(equidistant_projection(found, centers), found)
    torch.testing.assert_close(equidistant_projection(text[2], centers[2]), found[2])
    torch.testing.assert_close(equidistant_projection(3 * text, 5 * centers), found)


def test_float32_stays_and_is_as_exact_as_it_can_be():
    text, centers = _drawn(4, 64).float(), _drawn(4, 2, 64, seed=1).float()
    found = equidistant_projection(text, centers)
    assert found.dtype is torch.float32
    distances = attribute_distances(found, centers)
    assert float((distances[:, 0] - distances[:, 1]).abs().max()) < 1e-6


def test_repeated_centres_count_once():
    text, centers = _drawn(5), _drawn(2, 5, seed=1)
    torch.testing.assert_close(
        equidistant_projection(text, torch.cat([centers, centers[:1]])), equidistant_projection(text, centers)
    )


def test_coincident_centres_leave_the_text_and_warn():
    text = _drawn(5)
    with pytest.warns(UserWarning, match="coincide"):
        found = equidistant_projection(text, text.flip(0).expand(2, 5))
    torch.testing.assert_close(found, _unit(text))


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_text_along_the_difference_is_refused(dtype):
    centers = _unit(_drawn(2, 5, seed=1)).to(dtype)
    with pytest.raises(ValueError, match="text lies in the span"):
        equidistant_projection(centers[0] - centers[1], centers)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="at least 2"):
        equidistant_projection(torch.ones(3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="text has norm zero"):
        equidistant_projection(torch.zeros(3), torch.eye(3)[:2])
    with pytest.raises(ValueError, match="centers must have shape"):
        equidistant_projection(torch.ones(3), torch.eye(2))


@pytest.mark.filterwarnings("ignore:centres coincide")
def test_centres_in_float32_coincide_for_a_text_in_float64_too():
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(5, generator=generator, dtype=torch.float64)
    centre = torch.randn(1, 5, generator=generator)
    found = equidistant_projection(text, torch.cat([centre, 3.3 * centre, 0.7 * centre]))
    torch.testing.assert_close(found, text / text.norm())
