import math

import pytest
import torch
from torch.nn.functional import normalize

from equipoise.core.scores import HIGHER_IS_IN
from equipoise.data.tiny_clip import tiny_tokenizer, untrained_tiny_clip
from equipoise.integrations.clip import CLIPTower
from equipoise.openworld import InterNeg, TextualInverter, grouped_negative_score, ood_metrics
from equipoise.openworld.prompts.negative_bank import Inversion
from equipoise.openworld.prompts.negative_texts import class_image_prototypes, encode_names


def _space(seed=0, classes=4, width=16):
    """Class texts, images near them, candidates, and a mixed stream."""
    g = torch.Generator().manual_seed(seed)
    text, other = (normalize(torch.randn(n, width, generator=g), dim=1) for n in (classes, 30))
    images = normalize(text + 0.05 * torch.randn(classes, width, generator=g), dim=1)
    pure = torch.cat([text[torch.arange(20) % classes], other[torch.arange(20) % 5]])
    stream = pure + 0.1 * torch.randn(40, width, generator=g)
    return text, images, other[5:], stream[torch.randperm(40, generator=g)]


class Echo:
    """An inverter that gives the image back; it notes what it was asked for."""

    def __init__(self, lost=()):
        self.asked, self.draws, self.lost = [], [], set(lost)

    def __call__(self, features, generator=None):
        self.asked.append(features)
        self.draws.append(float(torch.rand(1, generator=generator)))
        kept = torch.tensor([k for k in range(len(features)) if k not in self.lost], dtype=torch.long)
        return Inversion(features[kept], kept, torch.ones(len(kept)))


def _detector(echo, **options):
    text, images, candidates, stream = _space()
    settings = {"capacity": 10, "scale": 10.0, "threshold": 0.5} | options
    return InterNeg(None, 5, inverter=echo, **settings).fit_features(text, images, candidates), stream


def test_a_batch_is_scored_again_with_what_it_taught():
    echo = Echo()
    detector, stream = _detector(echo)
    detector.frozen = True
    before = detector.score_features(stream)
    assert not echo.asked
    assert torch.equal(before, detector.score_features(stream))
    detector.frozen = False
    after = detector.score_features(stream)
    unsure = normalize(stream, dim=1)[torch.sort(before, stable=True).indices][: int((before < 0).sum())]
    torch.testing.assert_close(echo.asked[0], unsure)
    negatives = torch.cat([detector.negatives, detector.bank.embeddings])
    share = grouped_negative_score(stream, detector.id_text, negatives, scale=10.0)
    torch.testing.assert_close(after.double().sigmoid(), share)
    assert bool((after <= before + 1e-6).all())
    assert len(detector.bank) == 10


def test_every_row_of_the_bank_obeys_the_rule():
    detector, stream = _detector(Echo(), capacity=100, threshold=1.0)
    bank = detector.bank
    # A class's mean image is nearer to itself than its text is.
    detector.score_features(torch.cat([bank.prototypes, stream]))
    assert len(bank) == len(stream)
    assert bool((bank.embeddings @ bank.prototypes.T < bank.base_similarity).all())


def test_the_lowest_scores_go_first_where_inversions_are_few():
    echo = Echo()
    detector, stream = _detector(echo, max_inversions=3)
    detector.frozen = True
    lowest = torch.sort(detector.score_features(stream), stable=True).indices[:3]
    detector.frozen = False
    detector.score_features(stream)
    torch.testing.assert_close(echo.asked[0], normalize(stream, dim=1)[lowest])


def test_groups_are_split_by_a_fixed_order():
    detector, stream = _detector(None, groups=2, seed=3)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(3))
    expected = grouped_negative_score(
        stream, detector.id_text, detector.negatives, scale=10.0, groups=2, permutation=order
    )
    torch.testing.assert_close(detector.score_features(stream).double().sigmoid(), expected)
    torch.testing.assert_close(detector.score_features(stream[:3]).double().sigmoid(), expected[:3])


def test_the_surest_images_keep_their_order_at_any_scale():
    detector, stream = _detector(None, scale=300.0)
    x, text, negatives = (normalize(rows.double(), dim=1) for rows in (stream, detector.id_text, detector.negatives))
    wanted = (300 * x @ text.T).logsumexp(1) - (300 * x @ negatives.T).logsumexp(1)
    found = detector.score_features(stream)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    surer = wanted > wanted.median()
    assert len(found.sigmoid()[surer].unique()) == 1
    assert float(ood_metrics(found[surer], found[~surer])["auroc"]) == 1
    assert torch.equal(found.argsort(), wanted.argsort())


def test_the_threshold_is_on_the_share_of_the_softmax():
    detector, stream = _detector(Echo(), threshold=0.2)
    detector.frozen = True
    below = int((detector.score_features(stream) < math.log(0.2 / 0.8)).sum())
    detector.frozen = False
    detector.score_features(stream)
    assert 0 < below == len(detector.inverter.asked[0]) < len(stream)


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"capacity": 0}])
def test_without_a_threshold_or_room_nothing_is_learned(options):
    echo = Echo()
    detector, stream = _detector(echo, **options)
    detector.score_features(stream)
    assert not echo.asked
    assert len(detector.bank) == 0


def test_failed_inversions_are_counted():
    detector, stream = _detector(Echo(lost=[0, 2]))
    detector.score_features(stream)
    assert detector.failed_inversions == 2
    detector.reset()
    assert detector.failed_inversions == 0


def test_a_reset_stream_repeats_itself_and_its_batches_differ():
    echo = Echo()
    detector, stream = _detector(echo)
    first = [detector.score_features(batch) for batch in stream.split(10)]
    detector.reset()
    again = [detector.score_features(batch) for batch in stream.split(10)]
    assert torch.equal(torch.cat(first), torch.cat(again))
    half = len(echo.draws) // 2
    assert echo.draws[:half] == echo.draws[half:]
    assert len(set(echo.draws[:half])) == half


@pytest.mark.parametrize("how", ["state dict", "file", "inside a module"])
def test_a_stream_goes_on_where_it_was_saved(how, tmp_path):
    detector, stream = _detector(Echo(), groups=2)
    detector.score_features(stream[:20])
    copy = InterNeg(None, 5, inverter=Echo(), capacity=10, scale=1.0, threshold=0.5, groups=2)
    if how == "inside a module":
        torch.nn.Sequential(copy).load_state_dict(torch.nn.Sequential(detector).state_dict())
    else:
        state = detector.state_dict()
        if how == "file":
            torch.save(state, tmp_path / "detector.pt")
            state = torch.load(tmp_path / "detector.pt", weights_only=True)
        copy.load_state_dict(state)
    assert torch.equal(copy.score_features(stream[20:]), detector.score_features(stream[20:]))
    assert copy.inverter.draws == detector.inverter.draws[1:]


def test_another_capacity_is_refused():
    detector, _ = _detector(None)
    with pytest.raises(RuntimeError, match="size mismatch"):
        InterNeg(None, capacity=3).load_state_dict(detector.state_dict())


@pytest.fixture(scope="module")
def tower():
    return CLIPTower(untrained_tiny_clip(), tiny_tokenizer()).eval()


def _images(n=8):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_tower_is_fitted_with_names_images_and_words(tower):
    names, target = ["red circle", "blue cross"], torch.arange(8) % 2
    words = {"a {}": ["green circle", "Red  circle", "dax"], "one nice {}": ["blue bar", "dax", "large"]}
    detector = InterNeg(tower, 2, capacity=4, threshold=1.0, inverter=TextualInverter(tower, ("a {}",), steps=2))
    detector.fit(names, _images(), target, words, template="one nice {}", min_share=0.5)
    flat = [*words["a {}"], *words["one nice {}"]]
    chosen = [flat[k] for k in detector.selection.indices.tolist()]
    assert len(chosen) == 2
    assert "Red  circle" not in chosen
    assert detector.selection.indices.tolist()[-1] != 2
    forms = [k < 3 for k in detector.selection.indices.tolist()]
    for row, word, first in zip(detector.negatives, chosen, forms, strict=True):
        torch.testing.assert_close(row, encode_names(tower, [word], "a {}" if first else "one nice {}")[0])
    prototypes = class_image_prototypes(tower.encode_image(_images()).detach(), target, 2)
    torch.testing.assert_close(detector.bank.prototypes, prototypes)
    scores = detector(_images(5))
    assert scores.shape == (5,)
    assert not scores.requires_grad
    assert detector.spec == HIGHER_IS_IN
    features = normalize(tower.encode_image(_images()), dim=1)
    assert torch.equal(detector.predict(_images()), (features @ detector.id_text.T).argmax(1))
    assert all(p.grad is None for p in tower.parameters())
    assert not list(detector.parameters())


def test_several_templates_are_averaged_and_batches_of_images_joined(tower):
    forms = ("a {}", "this is a {}")
    both = encode_names(tower, ["red circle"], forms)
    expected = normalize(sum(encode_names(tower, ["red circle"], form) for form in forms), dim=1)
    torch.testing.assert_close(both, expected)
    target = torch.arange(8) % 2
    whole, split = (
        InterNeg(tower, 1, capacity=0).fit(
            ["red circle", "dax"], x, target, ["large", "bar"], template=forms, min_share=0.5
        )
        for x in (_images(), _images().split(3))
    )
    torch.testing.assert_close(whole.bank.prototypes, split.bank.prototypes)
    assert float(whole.scale) == pytest.approx(10.0)


def test_use_before_fit_and_without_a_tower_says_so():
    detector = InterNeg(None)
    with pytest.raises(RuntimeError, match="fit"):
        detector.score_features(torch.ones(1, 3))
    with pytest.raises(RuntimeError, match="fit"):
        detector.reset()
    with pytest.raises(RuntimeError, match="no tower"):
        detector(torch.ones(1, 3, 16, 16))
    with pytest.raises(RuntimeError, match="no tower"):
        detector.fit(["a"], torch.ones(1, 3, 16, 16), torch.tensor([0]), ["b"])


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named(tower):
    detector, stream = _detector(None)
    with pytest.raises(ValueError, match="with d = 5"):
        detector.score_features(stream[:, :5])
    with pytest.raises(ValueError, match="candidates must be a list or tuple, got str"):
        InterNeg(tower).fit(["red circle"], _images(1), torch.tensor([0]), "bar")
    with pytest.raises(ValueError, match="no word"):
        InterNeg(tower).fit(["red circle"], _images(1), torch.tensor([0]), [" Red circle"])
    with pytest.raises(ValueError, match="class 1 has no image"):
        InterNeg(tower).fit(["red circle", "dax"], _images(1), torch.tensor([0]), ["bar"], template="a {}")
