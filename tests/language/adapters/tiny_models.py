"""Small models to adapt."""

from __future__ import annotations

import torch
from torch import nn

from equipoise.language import TuckASettings, apply_tucka

SETTINGS = TuckASettings(r=3, k=3, t=2, p=2, alpha=16.0)


def llama(layers=2, **changes):
    """A random Llama of transformers with 19 words."""
    import transformers

    sizes = {
        "vocab_size": 19,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**sizes, **changes}))


def words(rows=2, length=6, seed=0):
    return torch.randint(3, 19, (rows, length), generator=torch.Generator().manual_seed(seed))


def blocks(settings=SETTINGS, depth=3):
    """A stack of two-layer blocks in float64, adapted in every layer."""
    torch.manual_seed(0)
    made = [nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)) for _ in range(depth)]
    model = Stack(made).double()
    apply_tucka(model, [f"parts.{number}.{layer}" for number in range(depth) for layer in (0, 2)], settings)
    return model


class Stack(nn.Module):
    """Blocks one after the other, with gradient checkpointing if wanted."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.reentrant = None
        self.first_plain = False

    def forward(self, x):
        for number, part in enumerate(self.parts):
            if self.reentrant is None or (self.first_plain and number == 0):
                x = x + part(x)
            else:
                x = x + torch.utils.checkpoint.checkpoint(part, x, use_reentrant=self.reentrant)
        return x


def gradients(model):
    """Gradients of what is trained, by name."""
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
