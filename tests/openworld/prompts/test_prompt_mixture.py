import json
import math
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from equipoise.core.models.two_tower import encode_prompts, encode_texts, prompt_tokens
from equipoise.data.tiny_clip import tiny_tokenizer, untrained_tiny_clip
from equipoise.integrations.clip import CLIPTower
from equipoise.openworld import GMoP, OpenworldAUC, PromptLearner
from equipoise.openworld.prompts.gated_auc import base_to_new_score
from word_tower import WordSum

NAMES = ["red fox", "tall grey stone", "blue bird", "old oak", "bright star", "fast car", "wide river"]
NEW = ["green frog", "iron key", "paper boat"]


def _model(seed=0, tower=None, **options):
    settings = {"num_detectors": 3, "n_ctx": 2, "n_ctx_detector": 3, "seed": seed} | options
    return GMoP(tower or WordSum(), NAMES, "a photo of {}", **settings)


def _images(names, count, noise=0.8, seed=0, tower=None):
    """Features near the texts of their classes."""
    with torch.no_grad():
        text = encode_texts(tower or WordSum(), [f"a photo of {name}" for name in names]).float()
    target = torch.arange(count) % len(names)
    g = torch.Generator().manual_seed(seed)
    return 3 * text[target] + noise * torch.randn(count, text.shape[1], generator=g), target


def _terms_by_hand(model, images, target):
    """Detector by detector and pair by pair, from the definitions."""
    tower, v = WordSum(), normalize(images, dim=1)

    def logits(context, names):
        tokens = prompt_tokens(tower, [("", len(context), name) for name in names])
        return 10 * v @ encode_prompts(tower, tokens, context).T

    z = logits(model.base_prompt.context, NAMES)
    zero = 10 * v @ encode_texts(tower, [f"a photo of {name}" for name in NAMES]).T
    base_gate, new_gate = (torch.stack([x.softmax(1)[i, y] for i, y in enumerate(target)]).sigmoid() for x in (z, zero))
    detectors = pairs = torch.zeros(())
    count = len(model.detector_prompts)
    for k, prompt in enumerate(model.detector_prompts):
        inside = [j for j in range(len(NAMES)) if j % count != k]
        own = logits(prompt.context, [NAMES[j] for j in inside])
        p = own.softmax(1).max(1).values
        base = [i for i, y in enumerate(target.tolist()) if y in inside]
        new = [i for i, y in enumerate(target.tolist()) if y not in inside]
        if not base or not new:
            continue
        local = torch.tensor([inside.index(int(target[i])) for i in base])
        detectors = detectors + cross_entropy(own[base], local) / count
        total = sum(base_gate[i].detach() * new_gate[j] * (1 - (p[i] - p[j])) ** 2 for i in base for j in new)
        pairs = pairs + total / (len(base) * len(new)) / count
    return cross_entropy(z, target), detectors, pairs


@pytest.mark.parametrize("size", [21, 9, 3, 2])
def test_the_objective_is_its_definition_with_all_gradients(size):
    model = _model(seed=size, lam=0.7, alpha=0.3)
    images, target = _images(NAMES, size, seed=size)
    target = (target * 2) % 7
    base, detectors, pairs = _terms_by_hand(model, images, target)
    found = model.terms(images, target)
    torch.testing.assert_close(tuple(found), (base, detectors, pairs))
    total = model.training_loss(images, target)
    contexts = list(model.parameters())
    wanted = torch.autograd.grad(base + 0.3 * detectors + 0.7 * pairs, contexts, allow_unused=True)
    for one, other in zip(torch.autograd.grad(total, contexts), wanted, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, rtol=1e-4, atol=1e-6)


def test_only_contexts_are_parameters_and_all_of_them_learn():
    model = _model()
    assert [name for name, _ in model.named_parameters()] == [
        "base_prompt.context",
        *(f"detector_prompts.{k}.context" for k in range(3)),
    ]
    model.training_loss(*_images(NAMES, 14)).backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_the_integer_type_of_a_target_does_not_matter(dtype):
    model = _model()
    images, target = _images(NAMES, 14)
    torch.testing.assert_close(model.terms(images, target.to(dtype)), model.terms(images, target))


@pytest.mark.parametrize("detach", [True, False])
def test_the_pair_loss_reaches_the_base_prompt_only_where_gates_are_attached(detach):
    model = _model(detach_gate=detach)
    model.terms(*_images(NAMES, 14)).pairs.backward()
    grad = model.base_prompt.context.grad
    assert (grad is None or float(grad.abs().sum()) == 0) == detach
    assert all(float(p.context.grad.abs().sum()) > 0 for p in model.detector_prompts)


def test_a_batch_without_pseudo_new_images_keeps_a_graph():
    model = _model(num_detectors=7)
    images, target = _images(NAMES, 1)
    # One class only: it is pseudo-new for one detector, which then has no pseudo-base images.
    terms = model.terms(images, target)
    (terms.detectors + terms.pairs).backward()
    assert float(terms.detectors.detach()) == float(terms.pairs.detach()) == 0
    assert all(float(p.context.grad.abs().sum()) == 0 for p in model.detector_prompts)


def _score_by_hand(model, images):
    tower, v, logits = WordSum(), normalize(images, dim=1), []
    for k, prompt in enumerate(model.detector_prompts):
        inside = [name for j, name in enumerate(NAMES) if j % 3 != k]
        rest = [name for j, name in enumerate(NAMES) if j % 3 == k]
        tokens = prompt_tokens(tower, [("", 3, name) for name in inside + rest + model.new_names])
        logits.append(10 * v @ encode_prompts(tower, tokens, prompt.context).T)
    return base_to_new_score(logits, [len([j for j in range(7) if j % 3 != k]) for k in range(3)]).detach()


def test_score_and_decision_are_those_of_the_definitions():
    model = _model(seed=4).set_new_classes(NEW)
    images = torch.cat([_images(NAMES, 20)[0], _images(NEW, 20)[0]])
    score, base_logits, new_logits = model(images)
    torch.testing.assert_close(score, _score_by_hand(model, images), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(model.score(images), score)
    v, tower = normalize(images, dim=1), WordSum()
    torch.testing.assert_close(base_logits, 10 * v @ model.base_prompt(model.base_prompt.tokens(NAMES)).T.detach())
    manual = encode_texts(tower, [f"a photo of {name}" for name in NEW]).detach()
    torch.testing.assert_close(new_logits, 10 * v @ manual.T)
    cut = float(score.double().sort().values[15])
    found = model.predict(images, threshold=cut)
    assert found.is_base.sum() == 25
    for i, (label, is_base) in enumerate(zip(found.label.tolist(), found.is_base.tolist(), strict=True)):
        assert is_base == (float(score[i]) >= cut)
        assert label == (int(base_logits[i].argmax()) if is_base else 7 + int(new_logits[i].argmax()))


def test_a_threshold_keeps_the_wanted_share_of_base_images():
    model = _model().set_new_classes(NEW)
    held_out, _ = _images(NAMES, 100, seed=3)
    cut = model.calibrate(held_out, recall=0.9)
    assert float(model.predict(held_out).is_base.float().mean()) == pytest.approx(0.9)
    assert cut.rate == pytest.approx(0.9)
    assert model.calibrate(held_out, recall=0.9, confidence=0.95).value < cut.value
    assert bool(model.predict(held_out, threshold=0.0).is_base.all())
    assert not bool(model.predict(held_out, threshold=1.1).is_base.any())


def test_training_teaches_classifier_and_detectors_and_is_repeatable():
    images, target = _images(NAMES, 49)
    model, again, other = _model(), _model(), _model()
    history = model.fit(images, target, epochs=6, batch_size=16, lr=0.3)
    assert len(history) == 6
    # Pairs weigh more the better the classifiers are, so their part need not fall.
    assert float(history[-1].base) < float(history[0].base) * 0.7
    assert float(history[-1].detectors) < float(history[0].detectors) * 0.7
    assert not any(part.requires_grad for part in history[0])
    again.fit(images, target, epochs=6, batch_size=16, lr=0.3)
    other.fit(images, target, epochs=6, batch_size=16, lr=0.3, seed=1)
    assert torch.equal(model.base_prompt.context, again.base_prompt.context)
    assert not torch.equal(model.base_prompt.context, other.base_prompt.context)


def test_an_epoch_is_steps_of_plain_descent_with_a_cosine_over_epochs():
    images, target = _images(NAMES, 10)
    model, by_hand = _model(), _model()
    model.fit(images, target, epochs=3, batch_size=10, lr=0.2)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(3):
        rows = torch.randperm(10, generator=generator)
        contexts = list(by_hand.parameters())
        grads = torch.autograd.grad(by_hand.training_loss(images[rows], target[rows]), contexts)
        with torch.no_grad():
            for context, grad in zip(contexts, grads, strict=True):
                context -= 0.1 * (1 + math.cos(math.pi * epoch / 3)) * grad
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_tower_that_is_not_frozen_gets_no_gradients_from_fitting():
    tower = WordSum()
    _model(tower=tower).fit(*_images(NAMES, 14), epochs=1)
    assert tower.words.requires_grad
    assert tower.words.grad is None


def test_global_random_numbers_are_left_alone():
    before = torch.random.get_rng_state()
    _model().fit(*_images(NAMES, 14), epochs=1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_texts_are_encoded_once_until_a_context_or_the_new_classes_change():
    tower = WordSum()
    model = _model(tower=tower).set_new_classes(NEW)
    images, target = _images(NAMES, 14)
    first, calls = model.score(images), tower.calls
    assert torch.equal(model.score(images), first)
    assert tower.calls == calls
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.training_loss(images, target).backward()
    optimizer.step()
    after = model.score(images)
    assert not torch.equal(after, first)
    torch.testing.assert_close(after, _score_by_hand(model, images), rtol=1e-6, atol=1e-7)
    model.load_state_dict(_model().state_dict())
    torch.testing.assert_close(model.score(images), first)
    model.set_new_classes(NEW[:1])
    torch.testing.assert_close(model.score(images), _score_by_hand(model, images))


def test_scores_serve_the_metric_and_training_raises_it_for_images_that_the_template_misreads():
    tower = WordSum()
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(5))).Q
    (train, target), (test, test_target), (new, new_target) = (
        _images(names, count, 0.3, seed) for seed, (names, count) in enumerate(((NAMES, 70), (NAMES, 70), (NEW, 60)))
    )
    train, test = (0.7 * x + 0.3 * x @ turn for x in (train, test))
    values = []
    for epochs in (0, 20):
        model = _model(tower=tower).set_new_classes(NEW)
        if epochs:
            model.fit(train, target, epochs=epochs, batch_size=16, lr=0.1)
        score, base_logits, new_logits = model(torch.cat([test, new]))
        is_base = torch.arange(130) < 70
        pred = torch.where(is_base, base_logits.argmax(1), new_logits.argmax(1))
        metric = OpenworldAUC()
        metric.update(score, pred, torch.cat([test_target, new_target]), is_base)
        values.append(float(metric.compute()["openworld_auc"]))
    assert values[1] > values[0] + 0.1


def test_saved_prompts_come_back_with_names_threshold_and_settings(tmp_path):
    model = GMoP(WordSum(), NAMES, ["a photo of {}", "one {}"], num_detectors=2, n_ctx=3, n_ctx_detector=2, lam=2.0)
    model.set_new_classes(NEW).fit(*_images(NAMES, 14), epochs=1, lr=0.5)
    images, _ = _images(NAMES + NEW, 20)
    model.calibrate(images)
    folder = model.save(tmp_path / "prompts")
    settings = json.loads((folder / "prompts.json").read_text())
    assert settings["new_names"] == NEW
    copy = GMoP.load(folder, WordSum())
    assert (copy.lam, copy.alpha, copy.detach_gate, copy.template) == (2.0, 0.5, True, ["a photo of {}", "one {}"])
    assert all(torch.equal(a, b) for a, b in zip(model.predict(images), copy.predict(images), strict=True))
    with pytest.raises(FileNotFoundError):
        GMoP.load(tmp_path / "elsewhere", WordSum())


def test_prompts_without_new_classes_come_back_without(tmp_path):
    copy = GMoP.load(_model().save(tmp_path), WordSum())
    assert copy.new_names == []
    assert bool(copy.threshold.isnan())


def test_a_tower_in_half_precision_trains_contexts_in_float32():
    tower = WordSum(torch.bfloat16)
    model = _model(tower=tower).set_new_classes(NEW)
    images, target = _images(NAMES, 14)
    assert model.base_prompt.context.dtype == torch.float32
    history = model.fit(images.bfloat16(), target, epochs=2, batch_size=7, lr=0.1)
    assert all(part.dtype == torch.float32 and bool(part.isfinite()) for part in history[-1])
    assert model(images.bfloat16()).base_logits.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_images_in_half_precision_are_judged_in_float32(dtype):
    model = _model(seed=2).set_new_classes(NEW)
    images, target = _images(NAMES, 14)
    half = images.to(dtype)
    torch.testing.assert_close(model.terms(half, target), model.terms(half.float(), target), rtol=0, atol=0)
    torch.testing.assert_close(model(half), model(half.float()), rtol=0, atol=0)


def test_autocast_rounds_no_logits_and_no_gate():
    model = _model(seed=2).set_new_classes(NEW)
    images, target = _images(NAMES, 14)
    wanted, terms = model(images), model.terms(images, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(images)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)
        assert found.base_logits.dtype is torch.float32
        # The text tower of a step is what autocast is for; the gate of the new classes does not see it.
        with torch.no_grad():
            model._train_texts = lambda: tuple(model.manual_base[part.pseudo_base] for part in model.partitions)
            model.base_prompt.forward = lambda tokens: model.manual_base
            rounded = model.terms(images, target)
    assert all(part.dtype is torch.float32 for part in rounded)
    with torch.no_grad():
        torch.testing.assert_close(rounded, model.terms(images, target), rtol=1e-6, atol=1e-6)
    assert all(part.isfinite() for part in terms)


def test_texts_that_overflow_leave_the_zero_of_a_skipped_batch_zero():
    model = _model(num_detectors=7)
    images, target = _images(NAMES, 1)
    text = torch.full((6, 8), 3e38, requires_grad=True)
    model._train_texts = lambda: (text,) * 7
    terms = model.terms(images, target)
    assert float(terms.detectors.detach()) == float(terms.pairs.detach()) == 0
    terms.pairs.backward()
    assert float(text.grad.abs().sum()) == 0


def test_contexts_start_from_the_words_of_a_template():
    tower = WordSum()
    model = _model(n_ctx=3, n_ctx_detector=2, init="a photo of", init_detector="one sketch", tower=tower)
    model.set_new_classes(NEW)
    plain = encode_texts(tower, [f"a photo of {name}" for name in NAMES])
    torch.testing.assert_close(model.base_prompt(model.base_prompt.tokens(NAMES)), plain)
    words = tower.embed_tokens(torch.tensor([tower.word_ids("one sketch")]))[0]
    assert all(torch.equal(prompt.context, words) for prompt in model.detector_prompts)
    # Before the first step g says what the template says, and its images are judged as by hand.
    images, target = _images(NAMES, 14)
    zero = 10 * normalize(images, dim=1) @ plain.T
    torch.testing.assert_close(model(images).base_logits, zero.detach())
    before = [prompt.context.detach().clone() for prompt in model.detector_prompts]
    model.fit(images, target, epochs=1, lr=0.1)
    moved = [prompt.context.detach() for prompt in model.detector_prompts]
    assert all(not torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    # Each detector has its own copy, and learns its own partition.
    assert not torch.equal(moved[0], moved[1])
    assert torch.equal(words, tower.embed_tokens(torch.tensor([tower.word_ids("one sketch")]))[0])


def test_one_first_context_may_be_given_and_the_others_drawn():
    vectors = torch.arange(12.0).reshape(2, 6)
    given, drawn = _model(seed=5, init=vectors), _model(seed=5)
    assert torch.equal(given.base_prompt.context, vectors)
    assert given.base_prompt.context is not vectors
    assert float(given.detector_prompts[0].context.detach().std()) < 0.1
    assert not torch.equal(drawn.base_prompt.context, vectors)
    with pytest.raises(ValueError, match=r"the 2 words of 'a photo' make shape \(2, 6\), wanted .* \(3, 6\)"):
        _model(init_detector="a photo")


def test_a_context_starts_from_words_or_vectors_and_prompts_are_then_plain_texts():
    tower = WordSum()
    prompt = PromptLearner(tower, 3, init="a photo of")
    plain = encode_texts(tower, [f"a photo of {name}" for name in NAMES])
    torch.testing.assert_close(prompt(prompt.tokens(NAMES)), plain)
    copy = PromptLearner(tower, 3, init=prompt.context)
    assert torch.equal(copy.context, prompt.context)
    assert copy.context is not prompt.context
    one, again = (PromptLearner(tower, 2, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.context, again.context)
    drawn = PromptLearner(tower, 5000, generator=torch.Generator().manual_seed(0)).context.detach()
    assert float(drawn.std()) == pytest.approx(0.02, rel=0.03)


def test_gradients_of_a_context_are_those_of_finite_differences():
    tower = WordSum(torch.float64)
    prompt = PromptLearner(tower, 2, generator=torch.Generator().manual_seed(0)).double()
    tokens = prompt.tokens(NAMES[:2])

    def texts(context):
        return torch.func.functional_call(prompt, {"context": context}, (tokens,))

    assert torch.autograd.gradcheck(texts, prompt.context.detach().clone().requires_grad_())


def test_it_works_on_a_clip_of_transformers():
    tower = CLIPTower(untrained_tiny_clip(), tiny_tokenizer()).requires_grad_(False)
    names = ["red circle", "striped blue cross", "green square", "cyan triangle"]
    model = GMoP(tower, names, "a photo of a {}", num_detectors=2)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        features = tower.encode_image(torch.randn(12, 3, 16, 16, generator=g))
    history = model.fit(features, torch.arange(12) % 4, epochs=3, batch_size=12, lr=0.05)
    assert float(history[-1].base) < float(history[0].base)
    model.set_new_classes(["dotted red circle"]).calibrate(features)
    assert model.predict(features).label.shape == (12,)


def test_one_new_class_and_as_many_detectors_as_classes_are_enough():
    model = GMoP(WordSum(), NAMES[:2], "a {}", num_detectors=2, n_ctx_detector=2)
    images, target = _images(NAMES[:2], 6)
    model.fit(images, target, epochs=2)
    assert bool(model.set_new_classes(["paper boat"]).score(images).isfinite().all())


def test_order_of_use_is_explained():
    model = _model()
    images, _ = _images(NAMES, 3)
    for use in (model, model.score, model.calibrate, lambda x: model.predict(x, 0.5)):
        with pytest.raises(RuntimeError, match="set_new_classes"):
            use(images)
    with pytest.raises(RuntimeError, match="calibrate"):
        model.set_new_classes(NEW).predict(images)


@pytest.mark.usefixtures("plain_inputs")
def test_bad_names_and_settings_are_named():
    tower = WordSum()
    for names, message in (
        ([*NAMES, "Red  Fox"], "holds 'Red  Fox', but there is 'red fox' already"),
        ([], "at least one name"),
        (["one two three four five six seven eight", *NAMES], "takes 12|takes 1[0-9] tokens.*reads 12"),
    ):
        with pytest.raises(ValueError, match=message):
            GMoP(tower, names, "a photo of {}", num_detectors=2, n_ctx_detector=3)
    with pytest.raises(ValueError, match=r"takes 20 tokens, the text tower reads 12"):
        GMoP(tower, NAMES)
    for number in (1, 8):
        with pytest.raises(ValueError, match=f"num_detectors={number} must lie between 2 and"):
            _model(num_detectors=number)
    with pytest.raises(ValueError, match="template"):
        GMoP(tower, NAMES, "a photo", n_ctx_detector=3)
    model = _model()
    for new, message in ((["iron key", " iron KEY"], "iron key"), (["Old oak"], "old oak"), ([], "at least one")):
        with pytest.raises(ValueError, match=message):
            model.set_new_classes(new)
    assert model.new_names == []
    with pytest.raises(ValueError, match=r"the 2 words of 'a photo' make shape \(2, 6\), wanted .* \(4, 6\)"):
        PromptLearner(tower, init="a photo")
    with pytest.raises(ValueError, match=r"init has shape \(4, 5\)"):
        PromptLearner(tower, init=torch.zeros(4, 5))


@pytest.mark.usefixtures("plain_inputs")
def test_bad_images_and_targets_are_named():
    model = _model()
    images, target = _images(NAMES, 7)
    for given, message in (
        ((images * torch.nan, target), "image_features holds 56 NaN"),
        ((images * 0, target), "norm zero"),
        ((images, target + 1), "class indices from 0 to 6"),
        ((images, target[1:]), "target must have shape"),
    ):
        for use in (model.training_loss, model.fit):
            with pytest.raises(ValueError, match=message):
                use(*given)
    with pytest.raises(ValueError, match="threshold=nan must be a finite number"):
        model.set_new_classes(NEW).predict(images, threshold=float("nan"))


def test_prompts_come_without_transformers_safetensors_and_torchmetrics():
    program = """
import sys
import equipoise.openworld as openworld
openworld.GMoP, openworld.PromptLearner, openworld.GatedPairwiseAUCLoss
assert not {"torchmetrics", "transformers", "matplotlib", "safetensors"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
