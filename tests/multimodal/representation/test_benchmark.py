"""Encoders before and after, on the same images."""

import pytest
import torch
from torch import nn

from equipoise.multimodal import DetailBenchmark, cluster_embeddings


def _images():
    """Class: which half is bright. Detail: whether the first channel is as well."""
    generator = torch.Generator().manual_seed(0)
    label, red = torch.arange(80) % 2, (torch.arange(80) // 2) % 2
    images = 0.05 * torch.rand(80, 3, 4, 4, generator=generator)
    images[label == 0, :, :2] += 0.9
    images[label == 1, :, 2:] += 0.9
    images[red == 1, 0] *= 0.5
    return images, label, red


class _Half(nn.Module):
    """Sees where an image is bright; of colour as much as is asked for."""

    def __init__(self, colour):
        super().__init__()
        self.colour, self.dropout = colour, nn.Dropout(0.5)

    def forward(self, x):
        bright = torch.stack([x[:, 1, :2].mean((1, 2)), x[:, 1, 2:].mean((1, 2))], 1)
        return self.dropout(torch.cat([bright, self.colour * (x[:, :1] - x[:, 1:2]).mean((2, 3))], 1))


def test_detail_and_classes_are_told_apart():
    images, label, red = _images()
    texts = torch.tensor([[1.0, -1, 0], [-1, 1, 0]])
    benchmark = DetailBenchmark(images, label, {"red": red, "half": label}, class_texts=texts)
    blind, seeing = _Half(0.0), _Half(1.0)
    found = benchmark.compare(blind.train(), seeing)
    assert blind.training
    assert blind.dropout.training
    assert found.before.probes["red"] < 0.75
    assert found.after.probes["red"] == 1
    assert found.before.probes["half"] == found.before.zero_shot == 1
    assert found.before.clusters.nmi == pytest.approx(1)
    # Where colour is all that counts, classes are lost.
    assert benchmark.measure(_Half(100.0)).clusters.nmi < 0.5
    assert benchmark.measure(blind).majority["red"] >= 0.5
    table = found.to_markdown()
    assert "| probe: red |" in table
    assert "| clusters: NMI | 1.000 |" in table


def test_measures_are_those_of_the_functions():
    images, label, _ = _images()
    benchmark = DetailBenchmark(images, label, seed=3, batch_size=7)
    found = benchmark.measure(nn.Flatten())
    assert found.clusters == cluster_embeddings((2 * images - 1).flatten(1), label, seed=3)
    assert found.probes == {}
    assert found.pairs is None
    assert list(found.values()) == ["clusters: accuracy", "clusters: NMI", "clusters: ARI"]


def test_pairs_are_scored_by_their_statements():
    images, _, _ = _images()
    pairs = images[:8].reshape(4, 2, 3, 4, 4)
    statements = (2 * pairs - 1).flatten(2)
    benchmark = DetailBenchmark(images, pairs=pairs, statements=statements, category=torch.arange(4) % 2)
    assert benchmark.measure(nn.Flatten()).pairs.accuracy == 1
    turned = DetailBenchmark(images, pairs=pairs, statements=statements.flip(1))
    assert turned.measure(nn.Flatten()).values() == {"pairs": 0.0}


def test_bad_benchmarks_are_refused(plain_inputs):
    images, label, red = _images()
    for options, words in [
        ({"pairs": images[:4].reshape(2, 2, 3, 4, 4)}, "belong together"),
        ({"category": label[:2]}, "category"),
        ({"class_texts": torch.ones(2, 3)}, "class_texts need label"),
        ({"label": label + 1, "class_texts": torch.ones(2, 3)}, "index the 2 class_texts"),
        ({"factors": {"red": red[:3]}}, r"factors\['red'\] must be a tensor of shape \(80,\)"),
        ({"probed": 1.0}, "probed=1.0"),
    ]:
        with pytest.raises(ValueError, match=words):
            DetailBenchmark(images, **options)
    with pytest.raises(ValueError, match="the encoder must give embeddings"):
        DetailBenchmark(images, label).measure(lambda x: x)


def test_texts_may_have_another_precision_but_no_other_width(plain_inputs):
    images, label = torch.rand(12, 3, 2, 2), torch.arange(12) % 2
    texts, statements = torch.randn(2, 12), torch.randn(3, 2, 12)
    pairs = torch.rand(3, 2, 3, 2, 2)
    found = [
        DetailBenchmark(images, label, pairs=pairs, statements=s, class_texts=t).measure(nn.Flatten())
        for s, t in ((statements, texts), (statements.double(), texts.double()))
    ]
    assert found[0].zero_shot == found[1].zero_shot
    assert found[0].values() == found[1].values()
    with pytest.raises(ValueError, match="class_texts have 5 dimensions, the encoder's embeddings 12"):
        DetailBenchmark(images, label, class_texts=texts[:, :5]).measure(nn.Flatten())


def test_a_factor_that_does_not_vary_is_named(plain_inputs):
    images, size = torch.rand(6, 3, 2, 2), torch.arange(6) % 2
    with pytest.raises(ValueError, match=r"factors\['colour'\] has the one value \[0\] in the 3 images"):
        DetailBenchmark(images, None, {"size": size, "colour": torch.zeros(6, dtype=torch.long)})
