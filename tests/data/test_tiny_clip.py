import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from equipoise.core.models.two_tower import TwoTower, encode_prompts, encode_texts, prompt_tokens
from equipoise.data.shapes import KINDS, kind_images, kind_name, tokenize
from equipoise.data.tiny_clip import TinyCLIPConfig, tiny_clip, tiny_tokenizer, train_tiny_clip, untrained_tiny_clip
from equipoise.integrations.clip import CLIPTower

SMALL = TinyCLIPConfig(pictures=40, steps=3, batch=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_clip(SMALL, tmp_path_factory.mktemp("models"))


def test_a_model_is_kept_under_the_hash_of_its_configuration(folder):
    assert folder.name == f"tiny-clip-{SMALL.key()}"
    assert json.loads((folder / "recipe.json").read_text())["steps"] == 3
    assert [path.suffix for path in folder.iterdir() if path.name.startswith("model")] == [".safetensors"]
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert tiny_clip(SMALL, folder.parent) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert TinyCLIPConfig(pictures=40, steps=4, batch=16).key() != SMALL.key()


def test_training_repeats_itself_and_touches_no_global_state(folder):
    before = torch.random.get_rng_state()
    again = train_tiny_clip(SMALL)
    assert torch.equal(torch.random.get_rng_state(), before)
    tower = CLIPTower.from_pretrained(folder)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(tower.model.state_dict()[name], value, msg=name)


def test_the_tokenizer_reads_as_the_world_does():
    tokenizer = tiny_tokenizer()
    for text in ("red circle", "striped small blue cross and dax topleft", "a photo of a dog"):
        ids = tokenizer(text).input_ids
        assert ids == tokenize(text, len(ids))


def test_a_loaded_tower_is_frozen_and_in_evaluation_mode(folder):
    tower = CLIPTower.from_pretrained(folder)
    assert isinstance(tower, TwoTower)
    assert not tower.model.training
    assert not any(p.requires_grad for p in tower.parameters())
    assert tower.context_length == 24
    assert float(tower.logit_scale) > 1


def test_word_vectors_given_as_embeddings_are_the_words(folder):
    tower = CLIPTower.from_pretrained(folder)
    tokens = prompt_tokens(tower, [("", 3, "red circle"), ("", 3, "cross")])
    given = tower.embed_tokens(torch.tensor([tower.word_ids("a photo of")]))[0]
    found = encode_prompts(tower, tokens, given)
    torch.testing.assert_close(found, encode_texts(tower, ["a photo of red circle", "a photo of cross"]))


def test_padding_does_not_move_a_text(folder):
    tower = CLIPTower.from_pretrained(folder)
    alone = encode_texts(tower, ["red circle"])
    beside = encode_texts(tower, ["red circle", "a picture of the small striped blue cross"])
    torch.testing.assert_close(beside[:1], alone, rtol=1e-4, atol=1e-5)


def test_gradients_reach_learned_words_and_not_the_model(folder):
    tower = CLIPTower.from_pretrained(folder)
    context = torch.zeros(2, tower.width, requires_grad=True)
    encode_prompts(tower, prompt_tokens(tower, [("", 2, "red circle")]), context).sum().backward()
    assert float(context.grad.abs().sum()) > 0
    assert all(p.grad is None for p in tower.parameters())


def test_slots_do_not_end_a_text_where_padding_is_the_end():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tower = CLIPTower(untrained_tiny_clip(), tokenizer).requires_grad_(False)
    assert tower.pad_token == tower.end_token
    context = torch.randn(4, tower.width, generator=torch.Generator().manual_seed(0))
    red, blue = encode_prompts(tower, prompt_tokens(tower, [("", 4, "red circle"), ("", 4, "blue circle")]), context)
    assert not torch.allclose(red, blue)


def test_nothing_is_fetched_without_being_asked(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        CLIPTower.from_pretrained(str(tmp_path / "nowhere"))


@pytest.fixture
def only_bin(folder, tmp_path):
    """The model with its weights as PyTorch writes them."""
    copy = Path(shutil.copytree(folder, tmp_path / "bin"))
    torch.save(CLIPTower.from_pretrained(folder).model.state_dict(), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    return copy


def test_weights_are_taken_from_a_bin_file_where_there_are_no_safetensors(folder, only_bin):
    wanted = CLIPTower.from_pretrained(folder).model.state_dict()
    found = CLIPTower.from_pretrained(only_bin).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


class _Runs:
    def __reduce__(self):
        return Path.touch, (Path("ran"),)


def test_nothing_in_a_bin_file_is_run(only_bin, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({"logit_scale": _Runs()}, only_bin / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        CLIPTower.from_pretrained(only_bin)
    assert not Path("ran").exists()


def test_pictures_become_what_the_model_wants(folder, tmp_path):
    image = pytest.importorskip("PIL.Image")
    import transformers

    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    copy = shutil.copytree(folder, tmp_path / "model")
    size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    processor = kind(**size)
    processor.save_pretrained(copy)
    tower = CLIPTower.from_pretrained(copy)
    colour = (200, 100, 0)
    found = tower.pixel_values([image.new("RGB", (40, 30), colour), np.full((20, 20, 3), colour, dtype=np.uint8)])
    wanted = (torch.tensor(colour) / 255 - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)
    torch.testing.assert_close(found, wanted[None, :, None, None].expand(2, 3, 16, 16), rtol=1e-4, atol=1e-4)
    assert tower.encode_image(found).shape == (2, 48)
    with pytest.raises(RuntimeError, match="no image processor"):
        CLIPTower.from_pretrained(folder).pixel_values([image.new("RGB", (16, 16))])


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no end token"):
        CLIPTower(untrained_tiny_clip(), tokenizer)


@pytest.mark.slow
def test_the_trained_model_names_what_it_sees():
    tower = CLIPTower.from_pretrained(tiny_clip())
    target = torch.arange(len(KINDS)).repeat(4)
    with torch.no_grad():
        images = torch.nn.functional.normalize(tower.encode_image(2 * kind_images(target, seed=99) - 1), dim=1)
        texts = encode_texts(tower, [f"a photo of a {kind_name(kind)}" for kind in KINDS])
    assert float(((images @ texts.T).argmax(1) == target).double().mean()) > 0.8
