import itertools

import numpy as np
import pytest
import torch

from equipoise.generative import (
    AttributeBias,
    QualityGap,
    attribute_bias,
    bias_amplification,
    intersect_attributes,
    text_skew,
)


@pytest.mark.parametrize("values", [2, 3, 5])
def test_bias_is_the_mean_over_pairs(values):
    counts = torch.randint(0, 30, (6, values), generator=torch.Generator().manual_seed(0)) + 1
    found = attribute_bias(counts)
    for row, bias in zip(counts.tolist(), found.per_prompt.tolist(), strict=True):
        shares = [each / sum(row) for each in row]
        assert bias == pytest.approx(np.mean([abs(x - y) for x, y in itertools.combinations(shares, 2)]))
    assert float(found.mean) == pytest.approx(float(found.per_prompt.mean()))


def test_bias_runs_from_even_to_one_sided():
    found = attribute_bias(torch.tensor([[5, 5, 5, 5], [20, 0, 0, 0]]))
    torch.testing.assert_close(found.per_prompt, torch.tensor([0.0, 0.5], dtype=torch.float64))
    assert float(attribute_bias(torch.tensor([[0, 9]])).mean) == 1


def test_shares_count_as_counts():
    counts = torch.tensor([[3, 1], [1, 1]])
    torch.testing.assert_close(attribute_bias(counts / 7.0), attribute_bias(counts))


def test_a_prompt_without_a_picture_is_nan_warns_and_is_left_out():
    with pytest.warns(UserWarning, match="1 of 2 prompts have no classified picture"):
        found = attribute_bias(torch.tensor([[0, 0], [3, 1]]))
    assert found.per_prompt[0].isnan()
    assert float(found.mean) == 0.5


def test_amplification_is_the_difference_to_the_text_side():
    text, centers = torch.tensor([[1.0, 0.9], [1.0, 1.0]]), torch.eye(2).expand(2, 2, 2)
    skew = text_skew(text, centers, 10.0)
    counts = torch.tensor([[9, 1], [1, 1]])
    found = bias_amplification(counts, skew)
    wanted = attribute_bias(counts).per_prompt - (skew[:, 0] - skew[:, 1]).abs().double()
    torch.testing.assert_close(found.per_prompt, wanted)
    torch.testing.assert_close(found.mean, wanted.mean())


def test_pictures_that_are_not_classified_do_not_count():
    metric = AttributeBias(2, 2)
    metric.update(torch.tensor([0, -1, 1, 0]), torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(metric.compute()["per_prompt"], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert metric.counts.tolist() == [[1, 0], [1, 1]]


def test_the_quality_gap_is_that_of_means_per_value():
    metric = QualityGap(2, 3)
    quality = torch.rand(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    attribute, prompt = torch.arange(60) % 4 - 1, torch.arange(60) // 30
    metric.update(quality, attribute, prompt)
    found = metric.compute()
    for p in range(2):
        means = [float(quality[(attribute == k) & (prompt == p)].mean()) for k in range(3)]
        np.testing.assert_allclose(found["quality"][p], means)
        wanted = np.mean([abs(x - y) for x, y in itertools.combinations(means, 2)])
        assert float(found["per_prompt"][p]) == pytest.approx(wanted)


def test_the_quality_gap_is_over_values_that_were_seen():
    metric = QualityGap(2, 3)
    metric.update(torch.tensor([0.25, 1.0, 0.5]), torch.tensor([0, 2, 1]), torch.tensor([0, 0, 1]))
    with pytest.warns(UserWarning, match="fewer than two values"):
        found = metric.compute()
    assert found["per_prompt"].tolist()[0] == 0.75
    assert found["per_prompt"][1].isnan()
    assert float(found["mean"]) == 0.75


def test_intersections_are_all_combinations():
    found = intersect_attributes({"age": ["young", "old"], "gender": ["female", "male", "other"]})
    assert found[:4] == [("young", "female"), ("young", "male"), ("young", "other"), ("old", "female")]
    assert len(found) == 6


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: attribute_bias(torch.tensor([[3, -1]])), "counts must be at least 0, got -1"),
        (lambda: attribute_bias(torch.tensor([[3]])), "counts holds 1 attribute value, at least 2"),
        (lambda: attribute_bias(torch.tensor([3, 1])), "counts must have shape"),
        (lambda: attribute_bias(torch.tensor([[torch.nan, 1.0]])), "counts holds 1 NaN"),
        (lambda: attribute_bias([[3, 1]]), "counts must be a torch.Tensor"),
        (lambda: bias_amplification(torch.tensor([[3, 1]]), torch.tensor([[-0.5, 1.5]])), "text must be at least 0"),
        (lambda: AttributeBias(1, 1), "num_attributes=1 must"),
        (lambda: AttributeBias(1, 2).update(torch.tensor([2]), torch.tensor([0])), "attribute holds the value 2"),
        (lambda: AttributeBias(1, 2).update(torch.tensor([-2]), torch.tensor([0])), "attribute holds the value -2"),
        (lambda: AttributeBias(1, 2).update(torch.tensor([0]), torch.tensor([1])), "prompt holds the value 1"),
        (lambda: QualityGap(1, 2).update(torch.ones(1), torch.tensor([0]), torch.tensor([1])), "prompt holds"),
        (lambda: intersect_attributes({}), "attributes is empty"),
        (lambda: intersect_attributes({"age": ["young"]}), "at least 2"),
        (lambda: intersect_attributes({"age": "young"}), "must be a list of values"),
        (lambda: intersect_attributes({"age": ["young", "young"]}), "names a value twice"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
