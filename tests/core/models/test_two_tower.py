import pytest
import torch
from torch import nn

from equipoise.core.models.two_tower import TwoTower, encode_prompts, encode_texts, prompt_tokens, unit_rows

_WORDS = ["<start>", "<end>", "a", "photo", "of", "red", "circle"]


class _Tower(nn.Module):
    """Pads with its end token, and reads a text at the first end, as real CLIP models do."""

    context_length, width, start_token, end_token, pad_token = 8, 4, 0, 1, 1

    def __init__(self):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.words = nn.Parameter(torch.randn(len(_WORDS), 4, generator=g, dtype=torch.float64))
        self.logit_scale = torch.tensor(10.0, dtype=torch.float64)

    def encode_image(self, images):
        return images.flatten(1)

    def word_ids(self, text):
        return [_WORDS.index(word) for word in text.split()]

    def embed_tokens(self, ids):
        return self.words[ids]

    def encode_text(self, ids, embeddings=None):
        held = self.embed_tokens(ids) if embeddings is None else embeddings
        # Causal: what stands behind the first end is not seen.
        summed = (held * torch.linspace(1, 2, 8, dtype=held.dtype)[: ids.shape[1], None]).cumsum(1)
        return summed[torch.arange(len(ids)), (ids == self.end_token).int().argmax(1)]


def test_the_fake_is_a_two_tower():
    assert isinstance(_Tower(), TwoTower)


def test_ids_begin_and_end_and_slots_stand_where_they_are_asked_for():
    found = prompt_tokens(_Tower(), [("a photo of", 2, "circle"), ("", 2, "red circle")])
    assert found.ids.tolist() == [[0, 2, 3, 4, 0, 0, 6, 1], [0, 0, 0, 5, 6, 1, 1, 1]]
    assert found.slots.nonzero().tolist() == [[0, 4], [0, 5], [1, 1], [1, 2]]


def test_no_slot_holds_the_end_where_padding_is_the_end():
    tower = _Tower()
    found = prompt_tokens(tower, [("", 4, "circle")])
    assert not bool((found.ids[found.slots] == tower.end_token).any())
    # What follows the slots reaches the feature.
    context = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    red, circle = encode_prompts(tower, prompt_tokens(tower, [("", 4, "red"), ("", 4, "circle")]), context)
    assert not torch.allclose(red, circle)


def test_slots_that_hold_words_are_those_words():
    tower = _Tower()
    ids = torch.tensor(tower.word_ids("a photo of"))
    tokens = prompt_tokens(tower, [("", 3, "red circle"), ("", 3, "circle")])
    found = encode_prompts(tower, tokens, tower.embed_tokens(ids))
    torch.testing.assert_close(found, encode_texts(tower, ["a photo of red circle", "a photo of circle"]))


def test_every_prompt_may_have_values_of_its_own_and_gradients_reach_them():
    tower = _Tower()
    tokens = prompt_tokens(tower, [("a", 1, "red"), ("photo of", 1, "circle")])
    values = torch.randn(2, 1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2), requires_grad=True)
    one = encode_prompts(tower, prompt_tokens(tower, [("a", 1, "red")]), values[0])
    torch.testing.assert_close(encode_prompts(tower, tokens, values)[:1], one)
    assert torch.autograd.gradcheck(lambda v: encode_prompts(tower, tokens, v), values)


def test_features_are_unit_vectors():
    tower = _Tower()
    torch.testing.assert_close(
        encode_texts(tower, ["red circle", "a photo"]).norm(dim=1), torch.ones(2, dtype=torch.float64)
    )


def test_what_does_not_fit_is_said(plain_inputs):
    tower = _Tower()
    with pytest.raises(ValueError, match="takes 9 tokens"):
        prompt_tokens(tower, [("a photo of", 2, "red circle")])
    with pytest.raises(ValueError, match="at least one"):
        prompt_tokens(tower, [])
    tokens = prompt_tokens(tower, [("", 2, "circle")])
    with pytest.raises(ValueError, match="values must have shape"):
        encode_prompts(tower, tokens, torch.zeros(3, 4, dtype=torch.float64))
    uneven = prompt_tokens(tower, [("", 2, "circle"), ("", 1, "circle")])
    with pytest.raises(ValueError, match=r"\[2, 1\] slots"):
        encode_prompts(tower, uneven, torch.zeros(2, 4, dtype=torch.float64))


def test_rows_without_a_direction_are_named(plain_inputs):
    with pytest.raises(ValueError, match="row 1 of features"):
        unit_rows("features", torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match="features"):
        unit_rows("features", torch.tensor([[float("nan"), 0.0]]))
    with pytest.raises(ValueError, match="shape"):
        unit_rows("features", torch.zeros(3))
