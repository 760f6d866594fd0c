"""A small model of coloured squares and of texts about them, whose text side is PyTorch's own transformer."""

import torch
from torch import nn


class SquareTower(nn.Module):
    """Texts by a transformer layer that has a fused path, pictures by their mean colour."""

    context_length, width, start_token, end_token, pad_token = 12, 16, 0, 1, 2

    def __init__(self, dropout=0.0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.words = nn.Embedding(60, 16)
            layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=dropout, batch_first=True)
            self.text = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.projection = nn.Linear(16, 8)
            self.colours = nn.Linear(3, 8)
        self.eval().requires_grad_(False)

    @property
    def logit_scale(self):
        return torch.tensor(20.0)

    def encode_image(self, images):
        return self.colours(images.mean((2, 3)))

    def word_ids(self, text):
        return [3 + sum(ord(letter) * (k + 3) for k, letter in enumerate(word)) % 57 for word in text.split()]

    def embed_tokens(self, ids):
        return self.words(ids)

    def encode_text(self, ids, embeddings=None):
        found = self.words(ids) if embeddings is None else embeddings
        states = self.text(found, src_key_padding_mask=ids == self.pad_token)
        return self.projection(states[torch.arange(len(ids)), (ids == self.end_token).int().argmax(1)])


COLOURS = {"red": (0.9, 0.1, 0.1), "blue": (0.1, 0.2, 0.9), "green": (0.1, 0.8, 0.2)}


def draw_squares(prompts, seeds):
    """A noisy square of the colour that a prompt names; grey where it names none."""
    pictures = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        colour = next((COLOURS[word] for word in prompt.split() if word in COLOURS), (0.5, 0.5, 0.5))
        noise = 0.1 * torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(seed))
        pictures.append((torch.tensor(colour)[:, None, None] + noise).clamp(0, 1))
    return torch.stack(pictures)
