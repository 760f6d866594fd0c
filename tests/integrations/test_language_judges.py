"""Judges on tiny models with random weights: the same classes of transformers that real judges are made of."""

from contextlib import suppress

import pytest
import torch

from equipoise.core.models.judges import JudgeError, TextJudge, VisionJudge
from equipoise.data.shapes import RenderedTextToImage
from equipoise.generative import BlackMirrorDetector
from equipoise.integrations.language_judges import HFTextJudge, HFVisionJudge, read_choice, read_deletion, read_list

transformers = pytest.importorskip("transformers")

_WORDS = ("yes", "Yes", "YES", "no", "No", "dog", "cat", "red", "circle", "prompt", "image", "USER", "none", "sketch")
_TEMPLATE = (
    "{% for message in messages %}USER: {% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
)


def _tokenizer():
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    vocabulary = {word: k for k, word in enumerate(("<pad>", "<unk>", "</s>", "<image>", *_WORDS))}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    bare.add_special_tokens([AddedToken("<image>", special=True)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="<pad>", unk_token="<unk>", eos_token="</s>", chat_template=_TEMPLATE
    )


def _text_config(size):
    return transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )


@pytest.fixture(scope="module")
def vision_folder(tmp_path_factory):
    tokenizer = _tokenizer()
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=_text_config(len(tokenizer)), image_token_index=3, image_seq_length=4
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlavaForConditionalGeneration(config)
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    images = kind(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=_TEMPLATE,
        num_additional_image_tokens=1,
    )
    folder = tmp_path_factory.mktemp("vision")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = transformers.LlamaForCausalLM(_text_config(len(tokenizer)))
    folder = tmp_path_factory.mktemp("text")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vision(vision_folder):
    return HFVisionJudge.from_pretrained(vision_folder)


@pytest.fixture(scope="module")
def text(text_folder):
    return HFTextJudge.from_pretrained(text_folder)


def _picture(seed=0):
    return RenderedTextToImage()(["red circle"], [seed])[0]


def test_they_answer_the_protocols(vision, text):
    assert isinstance(vision, VisionJudge)
    assert isinstance(text, TextJudge)


def test_a_probability_sums_the_ways_to_write_a_word(vision):
    chat, image = vision._chat, _picture()
    question = "Does this image contain: dog?"
    with torch.no_grad():
        logits = chat.model(**chat._inputs(question + " Answer with yes or no.", image)).logits[0, -1]
    ids = chat._tokenizer.convert_tokens_to_ids
    p = logits.double().softmax(0)
    yes = sum(p[ids(word)] for word in ("yes", "Yes", "YES"))
    no = sum(p[ids(word)] for word in ("no", "No"))
    assert vision.p_yes(image, "dog") == pytest.approx(float(yes / (yes + no)), rel=1e-5)
    assert 0 < vision.patch(image) < 1
    assert vision.p_yes(image, "dog") != vision.p_yes(1 - image, "dog")


def test_answers_are_drawn_from_the_generator_and_leave_the_global_state(vision):
    image, state = _picture(), torch.get_rng_state()
    answers = [vision._chat.say("dog image", image, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert answers[0] == answers[1] != answers[2]
    assert vision._chat.say("dog image", image) == vision._chat.say("dog image", image)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_random_model_leaves_an_audit_undecided_or_done(vision, text):
    report = BlackMirrorDetector(RenderedTextToImage(), vision, text, votes=1, variants=1).detect("red circle")
    assert report.undecided is None or "no answer about" in report.undecided
    assert sum(report.calls.values()) > 0


def test_text_judges_answer_with_words(text):
    assert isinstance(text.same("dog", "cat"), bool)
    assert isinstance(text.patch("red circle"), bool)
    for ask in (
        lambda: text.objects("red circle"),
        lambda: text.style("red circle"),
        lambda: text.mask("dog", ["dog"]),
    ):
        # What a random model writes can mostly not be read, and is then no answer.
        with suppress(JudgeError):
            assert isinstance(ask(), list | str | None)


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ('["dog", "A red umbrella "]', ["dog", "red umbrella"]),
        ('Here: ["dog"] and more', ["dog"]),
        ('[1] ["dog"]', ["dog"]),
        ("1. dog\n2. the cat.", ["dog", "cat"]),
        ("- dog\n- cat", ["dog", "cat"]),
        ("None.", []),
        ("There are no objects.", []),
        ("no visible objects", []),
        ("[]", []),
    ],
)
def test_lists_are_read(answer, names):
    assert read_list(answer) == names


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "  ",
        '["dog"',
        "[1, 2]",
        "I am sorry, but I can not see any image at all here.",
        "I don't know.",
        "I don\u2019t know.",
        "Sorry, I cannot.",
        "there is a dog",
    ],
)
def test_what_is_no_list_is_no_answer(answer):
    with pytest.raises(JudgeError, match="no list of objects"):
        read_list(answer)


def test_choices_and_deletions_are_read():
    assert read_choice("Pixel-art!", ("pixel art", "sketch")) == "pixel art"
    for answer in ("a photo", "a sketch or an oil painting", "", "not a sketch", "It isn't a sketch."):
        with pytest.raises(JudgeError, match="no single one"):
            read_choice(answer, ("oil painting", "sketch"))
    assert read_deletion("A dog, zq", "a dog, zq and a cat") == "A dog, zq"
    for answer in ("", "zq dog", "a small dog"):
        with pytest.raises(JudgeError, match="words deleted"):
            read_deletion(answer, "a dog zq")


def test_bad_settings_and_models(vision, tmp_path):
    model, processor = vision._chat.model, vision._chat.processor
    for settings in ({"temperature": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            HFVisionJudge(model, processor, **settings)
    with pytest.raises(OSError, match="absent"):
        HFTextJudge.from_pretrained(tmp_path / "absent")
    tokenizer = _tokenizer()
    tokenizer._tokenizer.model = type(tokenizer._tokenizer.model)({"<unk>": 1, "yes": 4}, unk_token="<unk>")
    with pytest.raises(ValueError, match="no token for 'no'"):
        HFTextJudge(model, tokenizer)
