import pytest
import torch

from equipoise.core.pairs.surrogates import SURROGATES, resolve_surrogate


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("margin", [0.7, 2.0])
def test_slope_and_curvature_are_the_derivatives_of_the_value(name, margin):
    surrogate = SURROGATES[name]
    t = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(surrogate.value(t, margin).sum(), t, create_graph=True)
    torch.testing.assert_close(surrogate.slope(t, margin), slope)
    step = 1e-5
    away = (t - margin).abs() > 1e-3
    numeric = (surrogate.slope(t + step, margin) - surrogate.slope(t - step, margin)) / (2 * step)
    torch.testing.assert_close(surrogate.curvature(t, margin)[away], numeric[away], rtol=1e-6, atol=1e-8)


def test_hinge_has_no_slope_at_the_margin():
    assert SURROGATES["hinge"].slope(torch.tensor([1.0]), 1.0).item() == 0


@pytest.mark.parametrize("name", ["squared_hinge", "hinge", "logistic", "square"])
def test_extreme_differences_stay_finite(name):
    t = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(SURROGATES[name].value(t, 1.0)).all()


def test_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match=r"surrogate='squared' is not known.*'squared_hinge'"):
        resolve_surrogate("squared")
