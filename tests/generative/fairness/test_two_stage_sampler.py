import pytest
import torch

from equipoise.core.diffusion import NoiseSchedule, ddim_sample
from equipoise.generative import TwoStageSampler


class _Denoiser:
    """Predicts its condition, and notes what it was given."""

    prediction_type, shape = "x0", (2,)

    def __init__(self):
        self.schedule, self.seen = NoiseSchedule.cosine(100), []

    def predict(self, x_t, steps, condition):
        self.seen.append((int(steps[0]), condition.clone()))
        return condition


def _reader(value, calls=None):
    def read(prompts):
        if calls is not None:
            calls.append(tuple(prompts))
        return torch.tensor([[value, 0.0 if prompt else -1.0] for prompt in prompts])

    return read


def _sampler(denoiser, fraction, **settings):
    return TwoStageSampler(denoiser, _reader(1.0), _reader(2.0), switch_fraction=fraction, count=20, **settings)


@pytest.mark.parametrize("fraction", [0.0, 0.35, 0.8, 1.0])
def test_the_original_text_is_read_first_and_the_debiased_one_below_the_switch(fraction):
    denoiser = _Denoiser()
    _sampler(denoiser, fraction)(["a", "b"], [0, 1])
    assert len(denoiser.seen) == 20
    assert all(float(given[0, 0]) == (2 if step < fraction * 100 else 1) for step, given in denoiser.seen)


def test_the_ends_are_the_plain_samplers():
    for fraction, value in ((0.0, 1.0), (1.0, 2.0)):
        found = _sampler(_Denoiser(), fraction, eta=1.0)(["a"], [3])
        wanted = ddim_sample(_Denoiser(), torch.tensor([[value, 0.0]]), [3], count=20, eta=1.0)
        torch.testing.assert_close(found, wanted)


def test_the_empty_text_of_guidance_is_read_by_the_original_encoder():
    denoiser = _Denoiser()
    _sampler(denoiser, 1.0, guidance=3.0)(["a"], [0])
    assert {tuple(given[0].tolist()) for _, given in denoiser.seen} == {(2.0, 0.0), (1.0, -1.0)}


def test_each_text_is_read_twice_whatever_the_number_of_steps():
    first, last = [], []
    sampler = TwoStageSampler(_Denoiser(), _reader(1.0, first), _reader(2.0, last), count=50, guidance=2.0)
    sampler(["a", "b"], [0, 1])
    assert (first, last) == ([("a", "b"), ("", "")], [("a", "b")])


def test_samples_are_decoded():
    found = TwoStageSampler(_Denoiser(), _reader(1.0), _reader(2.0), lambda z: z + 10, switch_fraction=1.0)(["a"], [0])
    torch.testing.assert_close(found, torch.tensor([[12.0, 10.0]]))


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_outside_the_unit_interval_is_refused(fraction):
    with pytest.raises(ValueError, match="switch_fraction"):
        _sampler(_Denoiser(), fraction)


@pytest.mark.usefixtures("plain_inputs")
def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 prompts need as many seeds"):
        _sampler(_Denoiser(), 0.5)(["a", "b"], [0])
    with pytest.raises(ValueError, match="conditions of shapes"):
        TwoStageSampler(_Denoiser(), _reader(1.0), lambda prompts: torch.ones(1, 3))(["a"], [0])
