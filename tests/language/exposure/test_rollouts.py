"""Rollouts: what is drawn, end tokens, caches, the modes of models; exposure bias against its exact value."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from equipoise.core.token_divergence.families import FORWARD_KL
from equipoise.language import TabularLanguageModel, completion_mask, exposure_bias, kappa_tabular
from equipoise.language.exposure.rollouts import draw, evaluating, roll_out, uniforms

A = 5


def chain(seed, length=4, width=3):
    """A world of `length` layers of states: tables of teacher and student, and the KL in each state."""
    generator = torch.Generator().manual_seed(seed)
    states = length * width
    draw_table = lambda: torch.rand(states, A, generator=generator, dtype=torch.float64).square() + 0.02  # noqa: E731
    teacher, student = (each / each.sum(1, keepdim=True) for each in (draw_table(), draw_table()))
    following = torch.randint(width, (states, A), generator=generator)
    following += width * (torch.arange(states) // width + 1)[:, None]
    following[following >= states] = -1
    return teacher, student, following, (teacher * (teacher / student).log()).sum(1)


def tiny(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(40)
    return model


def rolled(teacher, student, prompts, steps=6, seed=0, **settings):
    uniform = uniforms(len(prompts), steps, seed, device=prompts.device)
    settings = {"writer": "student", "divergence": FORWARD_KL, "eos_token_id": 1, **settings}
    return roll_out(teacher, student, prompts, uniform, **settings)


def test_tokens_count_up_to_and_with_the_first_end_token():
    tokens = torch.tensor([[2, 7, 2, 2], [7, 7, 7, 7], [2, 2, 2, 2], [7, 2, 7, 2]])
    found = completion_mask(tokens, 2, start=1)
    assert found.int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert completion_mask(tokens, None, start=2).int().tolist() == [[0, 0, 1, 1]] * 4


def test_numbers_on_a_grid_draw_tokens_as_often_as_they_are_likely():
    p = torch.tensor([0.0, 0.25, 0.5, 0.0, 0.25])
    grid = torch.arange(400) / 400
    assert torch.bincount(draw(p.expand(400, -1), grid), minlength=5).tolist() == [0, 100, 200, 0, 100]
    assert draw(2 * p[None], torch.tensor([1 - 2**-53], dtype=torch.float64)) == 4
    assert draw(p[None], torch.zeros(1)) == 1


def test_antithetic_numbers_mirror_each_other():
    found = uniforms(6, 4, 0, device=torch.device("cpu"), antithetic=True)
    torch.testing.assert_close(found[:3] + found[3:], torch.ones(3, 4, dtype=torch.float64))
    assert found.min() >= 0
    assert found.max() < 1


@pytest.mark.parametrize("writer", ["teacher", "student"])
def test_a_cache_changes_nothing(writer):
    teacher, student = tiny(0).eval(), tiny(1).eval()
    prompts = torch.randint(11, (7, 4))
    cached = rolled(teacher, student, prompts, writer=writer)
    plain = rolled(lambda ids: teacher(ids).logits, lambda ids: student(ids), prompts, writer=writer)
    assert torch.equal(cached.tokens, plain.tokens)
    assert torch.equal(cached.counts, plain.counts)
    assert 0 < int(cached.counts.sum()) < cached.counts.numel()
    torch.testing.assert_close(cached.losses, plain.losses, rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_one_pass_over_the_written_text():
    teacher, student = tiny(0).eval(), tiny(1).eval()
    prompts = torch.randint(11, (5, 3))
    found = rolled(teacher, student, prompts)
    with torch.no_grad():
        text = torch.cat([prompts, found.tokens], 1)
        p, q = (model(text).logits[:, 2:-1].double().log_softmax(-1) for model in (teacher, student))
    expected = (p.exp() * (p - q)).sum(-1)
    counts = completion_mask(found.tokens, 1)
    assert torch.equal(found.counts, counts)
    torch.testing.assert_close(found.losses, expected * counts, rtol=1e-4, atol=1e-5)


def test_models_are_put_in_evaluation_and_every_part_back():
    teacher, student = tiny(0).train(), tiny(1).train()
    student.model.layers[0].eval()
    seen = []
    teacher.register_forward_hook(lambda *_: seen.append((teacher.training, torch.is_grad_enabled())))
    exposure_bias(teacher, student, [torch.tensor([3, 4])], max_new_tokens=2)
    assert set(seen) == {(False, False)}
    assert teacher.training
    assert all(part.training for part in teacher.modules())
    assert [part.training for part in student.model.layers] == [False, True]
    with pytest.raises(RuntimeError, match="stop"), evaluating(teacher):
        raise RuntimeError("stop")
    assert teacher.training


@pytest.mark.parametrize("seed", [0, 1])
def test_exposure_bias_of_a_tabular_world_is_the_exact_one(seed):
    teacher, student, following, loss = chain(seed)
    exact = kappa_tabular(teacher, following, loss, student_probs=student)
    models = [TabularLanguageModel(each, following) for each in (teacher, student)]
    prompts = [torch.tensor([0])] * 40
    found = exposure_bias(*models, prompts, max_new_tokens=4, n_rollouts=50, batch_size=1000)
    assert found.teacher_tokens == found.student_tokens == 40 * 50 * 4
    pairs = [
        (found.teacher_forced, found.teacher_forced_error, exact.teacher_forced_error / 4),
        (found.student_rollout, found.student_rollout_error, exact.inference_error / 4),
        (found.exposure_bias, found.exposure_bias_error, exact.exposure_bias / 4),
    ]
    for value, error, truth in pairs:
        assert 0 < error < 0.02
        assert abs(value - float(truth)) < 4 * error


def test_standard_errors_are_the_spread_over_seeds():
    teacher, student, following, _ = chain(3)
    models = [TabularLanguageModel(each, following, end_token=1) for each in (teacher, student)]
    prompts = [torch.tensor([0])] * 12
    found = [
        exposure_bias(*models, prompts, max_new_tokens=4, n_rollouts=3, eos_token_id=1, seed=seed, batch_size=99)
        for seed in range(40)
    ]
    for value, error in (("exposure_bias", "exposure_bias_error"), ("student_rollout", "student_rollout_error")):
        spread = torch.tensor([getattr(each, value) for each in found]).std()
        typical = torch.tensor([getattr(each, error) for each in found]).mean()
        assert 0.7 < typical / spread < 1.4


def test_prompts_of_several_lengths_and_batches_of_any_size_give_the_same():
    teacher, student = tiny(0).eval(), tiny(1).eval()
    prompts = [torch.randint(11, (n,)) for n in (3, 1, 3, 2)]
    settings = {"max_new_tokens": 5, "n_rollouts": 3, "eos_token_id": 1}
    whole = exposure_bias(teacher, student, prompts, **settings)
    assert whole.student_tokens < 60
    for size in (1, 2, 5):
        found = exposure_bias(teacher, student, prompts, batch_size=size, **settings)
        torch.testing.assert_close(torch.tensor(found), torch.tensor(whole), rtol=1e-4, atol=1e-5)
    other = exposure_bias(teacher, student, prompts, seed=1, **settings)
    assert other != whole


def test_a_student_that_is_its_teacher_has_no_exposure_bias():
    teacher = tiny(0).eval()
    found = exposure_bias(teacher, teacher, [torch.tensor([2])], max_new_tokens=5, n_rollouts=4, divergence="jsd")
    assert found.exposure_bias == found.exposure_bias_error == 0
    alone = exposure_bias(teacher, tiny(1), [torch.tensor([2])], max_new_tokens=2)
    assert alone.exposure_bias_error != alone.exposure_bias_error  # one rollout says nothing of its spread


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_refused_with_a_sentence():
    model = tiny(0).eval()
    good = {"teacher": model, "student": model, "prompts": [torch.tensor([1])], "max_new_tokens": 2}
    for changes, words in (
        ({"prompts": []}, "prompts is empty"),
        ({"prompts": [[1, 2]]}, r"prompts\[0\] must be a torch.Tensor"),
        ({"prompts": [torch.empty(0, dtype=torch.long)]}, r"prompts\[0\] is empty"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"teacher": "gpt"}, "teacher must be a Callable, got str"),
        ({"student": lambda ids: torch.zeros(2, 3)}, r"a model must give logits .* got \(2, 3\)"),
        ({"student": lambda ids: torch.zeros(*ids.shape, 7)}, "vocabulary has 7 entries, the teacher's 11"),
    ):
        with pytest.raises(ValueError, match=words):
            exposure_bias(**{**good, **changes})
