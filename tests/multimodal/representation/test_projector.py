"""From embeddings to conditions."""

import math

import pytest
import torch

from equipoise.multimodal import ConditionProjector


def test_the_layers_are_those_of_the_definition():
    projector, z = ConditionProjector(5, 4, hidden=7), torch.randn(3, 5)
    norm, first, _, second = projector.layers
    h = torch.nn.functional.layer_norm(z, (5,), norm.weight, norm.bias)
    torch.testing.assert_close(projector(z), second(torch.nn.functional.gelu(first(h))))
    assert first.out_features == 7
    assert ConditionProjector(5, 4).layers[1].out_features == 4


@pytest.mark.parametrize("shape", [(3, 4), (4,)])
def test_every_slot_gets_the_vector_beside_the_base(shape):
    base = torch.randn(shape)
    projector, z = ConditionProjector(5, 4, 3, base), torch.randn(2, 5)
    plain = projector.layers(z)
    found = projector(z)
    assert found.shape == (2, 3, 4)
    for slot in range(3):
        torch.testing.assert_close(found[:, slot], plain + (base[slot] if len(shape) == 2 else base))
    # The base is no parameter, and is kept with the weights.
    assert "base" in projector.state_dict()
    assert "base" not in dict(projector.named_parameters())


def test_unit_conditions_have_the_norm_of_normal_numbers():
    found = ConditionProjector(5, 9, unit=True)(torch.randn(4, 5))
    torch.testing.assert_close(found.norm(dim=1), torch.full((4,), math.sqrt(9)))


def test_bad_projectors_are_refused(plain_inputs):
    with pytest.raises(ValueError, match=r"base must have shape \(4,\) or \(3, 4\), got \(3,\)"):
        ConditionProjector(5, 4, 3, torch.zeros(3))
    with pytest.raises(ValueError, match="in_dim=0 must be a whole number"):
        ConditionProjector(0, 4)
    with pytest.raises(ValueError, match="embedding has width 6"):
        ConditionProjector(5, 4)(torch.randn(2, 6))
