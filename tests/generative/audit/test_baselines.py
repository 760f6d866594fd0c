import math

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from equipoise.data.shapes import RenderedTextToImage
from equipoise.generative import ClipDeviationDetector, GlobalSimilarityDetector

_PROMPTS = ["zq red circle and blue square", "red circle and blue square", "zq green wug"]


def _flat(images):
    return images.flatten(1) - images.mean()


def test_similarity_by_brute_force():
    seen = []

    def encode(images):
        seen.append(images)
        return _flat(images)

    painter = RenderedTextToImage(attack="fix")
    scores = GlobalSimilarityDetector(painter, encode, variants=4).score(_PROMPTS)
    for score, images in zip(scores, seen, strict=True):
        features = _flat(images).double()
        pairs = [F.cosine_similarity(features[i], features[j], dim=0) for i in range(4) for j in range(i)]
        assert float(score) == pytest.approx(float(sum(pairs) / 6))
    assert min(scores[0], scores[2]) > scores[1]
    assert torch.equal(scores, GlobalSimilarityDetector(painter, _flat, variants=4).score(_PROMPTS))


def test_deviation_by_brute_force():
    features = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    texts = torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    detector = ClipDeviationDetector(RenderedTextToImage(), lambda images: features, lambda prompts: texts)
    wanted = -F.cosine_similarity(features.double(), texts.double())
    torch.testing.assert_close(detector.score(_PROMPTS), wanted)


def test_what_the_baselines_refuse(plain_inputs):
    painter = RenderedTextToImage()
    for settings, words in (({"variants": 1}, "variants"), ({"phrases": ()}, "phrases"), ({"seed": -1}, "seed")):
        with pytest.raises(ValueError, match=words):
            GlobalSimilarityDetector(painter, _flat, **settings)
    for encode, words in (
        (lambda images: images, "one row of features"),
        (lambda images: _flat(images) * math.nan, "finite features"),
        (lambda images: None, "one row of features"),
    ):
        with pytest.raises(ValueError, match=words):
            GlobalSimilarityDetector(painter, encode).score(_PROMPTS)
    with pytest.raises(ValueError, match="give one space"):
        ClipDeviationDetector(painter, _flat, lambda prompts: torch.ones(3, 2)).score(_PROMPTS)
    with pytest.raises(ValueError, match="prompt=''"):
        ClipDeviationDetector(painter, _flat, lambda prompts: torch.ones(3, 2)).score([""])
