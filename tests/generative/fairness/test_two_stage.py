import pytest

from equipoise.generative import choose_switch_fraction, two_stage_conditioning


@pytest.mark.parametrize(("train", "steps", "fraction"), [(1000, 50, 0.8), (200, 40, 0.55), (7, 7, 0.5), (10, 1, 0.9)])
def test_steps_are_those_of_the_definition(train, steps, fraction):
    plan = two_stage_conditioning(train, steps, fraction)
    wanted = [round((train - 1) * (1 - k / max(steps - 1, 1))) for k in range(steps)]
    assert all(abs(a - b) <= 1 for a, b in zip(plan.timesteps, wanted, strict=True))
    assert plan.timesteps[0] == train - 1
    assert steps == 1 or plan.timesteps[-1] == 0
    assert plan.use_debiased == tuple(t < fraction * train for t in plan.timesteps)


def test_the_original_text_comes_first_and_the_debiased_one_last():
    used = two_stage_conditioning(1000, 50, 0.6).use_debiased
    assert not used[0]
    assert used[-1]
    assert sorted(used) == list(used)


def test_the_ends_of_the_fraction_read_one_text_only():
    assert all(two_stage_conditioning(1000, 20, 1.0).use_debiased)
    assert not any(two_stage_conditioning(1000, 20, 0.0).use_debiased)


def test_halves_are_rounded_to_even():
    assert two_stage_conditioning(1000, 3).timesteps == (999, 500, 0)
    assert two_stage_conditioning(998, 3).timesteps == (997, 498, 0)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((1000, 10, 1.1), "switch_fraction=1.1 must lie in"),
        ((1000, 10, -0.1), "switch_fraction=-0.1 must lie in"),
        ((1000, 10, float("nan")), "switch_fraction=nan"),
        ((10, 11, 0.5), "num_sampling_steps=11 are more than"),
        ((0, 1, 0.5), "num_train_steps=0"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(given, words):
    with pytest.raises(ValueError, match=words):
        two_stage_conditioning(*given)


def test_the_least_biased_fraction_that_keeps_quality_is_chosen():
    bias = {0.0: 0.9, 0.4: 0.7, 0.8: 0.4, 1.0: 0.2}
    quality = {0.0: 0.8, 0.4: 0.82, 0.8: 0.77, 1.0: 0.6}
    assert choose_switch_fraction(bias, quality, 0.05) == 0.8
    assert choose_switch_fraction(bias, quality, 0.03) == 0.4
    assert choose_switch_fraction(bias, quality, 0.5) == 1.0
    assert choose_switch_fraction({0.0: 0.5, 0.5: 0.9}, {0.0: 0.8, 0.5: 0.8}) == 0.0
    assert choose_switch_fraction({0.0: 0.5, 1.0: 0.1}, {0.0: 0.8, 1.0: 0.1}) == 0.0


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        (({0.5: 0.1}, {0.5: 0.1}), "measure both at the same, with 0"),
        (({0.0: 0.1}, {0.0: 0.1, 1.0: 0.1}), "measure both at the same, with 0"),
        (({0.0: 0.1, 2.0: 0.1}, {0.0: 0.1, 2.0: 0.1}), "must lie in"),
        (({0.0: float("nan")}, {0.0: 0.1}), "must be a finite number"),
        (({0.0: 0.1}, {0.0: 0.0}), "must be greater than 0"),
        (({0.0: 0.1}, {0.0: 0.1}, 1.5), "tolerance=1.5 must lie in"),
    ],
)
def test_measures_that_do_not_fit_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        choose_switch_fraction(*given)
