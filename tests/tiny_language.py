"""Tiny language models and tokenizers, built from nothing."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [
    "a",
    "b",
    "c",
    "d",
    "e",
    "f",
    "g",
    "h",
    "the",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "mat",
    "and",
    "user",
    "assistant",
    ":",
    "?",
]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% if m['role'] == 'assistant' %}</s> {% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant : {% endif %}"
)


def tiny_tokenizer(*, words=WORDS, template=None, bos=False):
    """Whole words; <pad> is 0 and </s> is 1."""
    entries = ["<pad>", "</s>", "<unk>", *(["<s>"] if bos else []), *words]
    plain = Tokenizer(models.WordLevel({word: place for place, word in enumerate(entries)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", **({"bos_token": "<s>"} if bos else {})}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, **special)
    tokenizer.chat_template = template
    return tokenizer


def tiny_model(seed=0, *, vocabulary=23, hidden=16, layers=1, heads=2, scale=None, **more):
    """A Llama of random weights; `scale` makes its output layer surer of itself."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        **more,
    )
    model = LlamaForCausalLM(config)
    if scale is not None:
        with torch.no_grad():
            model.lm_head.weight.mul_(scale)
    return model


def tiny_rows(count=8, seed=0, *, vocabulary=23, longest=9):
    """Rows of tokens of different length, of which the first ones are a prompt."""
    from equipoise.language.distillation.data import TokenRow

    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number in range(count):
        length = int(torch.randint(4, longest + 1, (), generator=generator))
        prompt = int(torch.randint(1, length - 1, (), generator=generator))
        ids = torch.randint(2, vocabulary, (length,), generator=generator).tolist()
        rows.append(TokenRow(ids, [-100] * prompt + ids[prompt:], number))
    return rows
