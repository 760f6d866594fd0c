import copy
import functools
import warnings

import pytest
import torch

from equipoise.language.distillation.data import collate_tokens
from equipoise.language.distillation.divergence_loss import ABDivergenceLoss, TokenDivergenceLoss
from equipoise.language.distillation.hybrid import HybridKDLoss
from equipoise.language.distillation.hybrid_weights import CurriculumSchedule
from equipoise.language.distillation.objective import DistillationObjective
from equipoise.language.distillation.offline import write_teacher_cache
from equipoise.language.distillation.prefixes import Sampling, StudentPrefixes
from equipoise.language.distillation.replay import AdaptiveReplay
from tiny_language import tiny_model, tiny_rows
from two_processes import in_two_processes, needs_two_processes

SAMPLING = Sampling(max_new_tokens=5, eos_token_ids=(1,))


def _arguments(folder, **settings):
    from transformers import TrainingArguments

    plain = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "max_steps": 3,
        "learning_rate": 0.01,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        "seed": 3,
    }
    return TrainingArguments(**{**plain, **settings})


def _trainer(folder, *, objective=None, teacher=None, student=None, settings=None, **parts):
    from equipoise.language.distillation.trainer import StudentTrainer

    trainer = StudentTrainer(
        student or tiny_model(0),
        _arguments(folder, **(settings or {})),
        teacher=teacher or tiny_model(1, hidden=24, heads=3, scale=8.0),
        objective=objective,
        train_dataset=tiny_rows(16),
        data_collator=functools.partial(collate_tokens, pad_token_id=0),
        **parts,
    )
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def _trained(*arguments, **settings):
    trainer = _trainer(*arguments, **settings)
    trainer.train()
    return trainer


def _weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


@pytest.mark.parametrize("fused", [False, True])
def test_accumulation_does_not_move_the_model(tmp_path, fused):
    objective = DistillationObjective(ABDivergenceLoss(), kd_ratio=0.7, lm_coef=0.3, fused=fused)
    found = []
    for accumulation in (1, 4):
        settings = {"per_device_train_batch_size": 8 // accumulation, "gradient_accumulation_steps": accumulation}
        settings["optim"] = "sgd"
        found.append(_trained(tmp_path, objective=objective, settings=settings, corpus=tiny_rows(5, seed=8)))
    torch.testing.assert_close(_weights(found[0]), _weights(found[1]), rtol=1e-4, atol=1e-6)
    losses = [[entry["loss"] for entry in each.state.log_history if "loss" in entry] for each in found]
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-4, atol=1e-5)


def test_the_student_comes_closer_and_the_logs_say_so(tmp_path):
    trainer = _trained(
        tmp_path,
        objective=DistillationObjective(TokenDivergenceLoss("forward_kl")),
        settings={"max_steps": 30},
        eval_dataset=tiny_rows(4, seed=4),
    )
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["loss"] < 0.7 * logs[0]["loss"]
    assert logs[0]["forward_kl"] == pytest.approx(logs[0]["loss"], rel=1e-4)
    assert {"student_entropy", "teacher_entropy", "agreement"} <= set(logs[0])
    held = trainer.evaluate()
    assert held["eval_loss"] > 0
    assert trainer.state.log_history[-1]["eval_forward_kl"] == pytest.approx(held["eval_loss"], rel=1e-4)


def test_measures_are_of_the_logged_steps_alone(tmp_path):
    trainer = _trained(tmp_path, settings={"max_steps": 5, "logging_steps": 2})
    assert ["forward_kl" in entry for entry in trainer.state.log_history if "loss" in entry] == [True, True]
    assert trainer._sums[""] == []


def test_a_hybrid_loss_says_what_it_mixed(tmp_path):
    settings = {"max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    start, teacher = tiny_model(0), tiny_model(1, scale=8.0)
    trainer = _trained(
        tmp_path,
        student=copy.deepcopy(start),
        teacher=teacher,
        objective=DistillationObjective(HybridKDLoss("confidence")),
        settings=settings,
    )
    logs = trainer.state.log_history[0]
    assert 0 < logs["soft_weight"] < 1
    assert logs["soft"] == pytest.approx(logs["forward_kl"], rel=1e-4)
    assert logs["hard"] > 0


def test_a_curriculum_goes_on_with_the_steps_of_the_trainer(tmp_path):
    loss = HybridKDLoss("static", curriculum=CurriculumSchedule(4, warmup_ratio=1.0, lam_max=0.8))
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = _trained(tmp_path, objective=DistillationObjective(loss), settings=settings)
    weights = [entry["soft_weight"] for entry in trainer.state.log_history if "soft_weight" in entry]
    assert weights == pytest.approx([0, 0.2, 0.4, 0.6])


def test_generated_batches_are_divided_by_their_own_tokens(tmp_path):
    """A step of four small batches of the student's answers is the mean over all their tokens."""
    seen = []

    class Watched(StudentPrefixes):
        def replace(self, batch, student, moment):
            seen.append(super().replace(batch, student, moment))
            return seen[-1]

    objective = DistillationObjective(TokenDivergenceLoss("forward_kl"))
    student, teacher = tiny_model(0), tiny_model(1, scale=8.0)
    start = copy.deepcopy(student)
    trainer = _trained(
        tmp_path,
        student=student,
        teacher=teacher,
        objective=objective,
        prefixes=Watched(SAMPLING, seed=1),
        settings={"max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    )
    items = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in seen)
    wanted = sum(float(objective(start, teacher, batch, num_items_in_batch=items).loss.detach()) for batch in seen)
    assert len(seen) == 4
    assert trainer.state.log_history[0]["loss"] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("kind", ["data", "student", "adaptive"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, kind):
    def source():
        if kind == "student":
            return StudentPrefixes(SAMPLING, lmbda=0.5, seed=2)
        replay = AdaptiveReplay(SAMPLING, init_threshold=0.7, loss_eps=0.0, capacity=10, seed=2)
        return {"data": None, "adaptive": replay}[kind]

    def parts():
        student = tiny_model(0, attention_dropout=0.3)
        return {"student": student, "prefixes": source(), "eval_dataset": tiny_rows(4, seed=4)}

    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2}
    whole = _trained(tmp_path / "a", settings=settings, **parts())
    trainer = _trainer(tmp_path / "a", settings=settings, **parts())
    trainer.train(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    torch.testing.assert_close(_weights(trainer), _weights(whole), rtol=0, atol=0)
    if kind == "adaptive":
        assert trainer.prefixes.threshold == whole.prefixes.threshold
        assert len(trainer.prefixes) == len(whole.prefixes) > 0


def test_a_cached_teacher_trains_the_same_student(tmp_path):
    teacher = tiny_model(1, scale=8.0)
    cache = write_teacher_cache(teacher, tiny_rows(16), tmp_path / "cache", k=23)
    one, other = _trained(tmp_path, teacher=teacher), _trained(tmp_path, teacher=cache)
    torch.testing.assert_close(_weights(one), _weights(other), rtol=1e-3, atol=1e-4)


def test_bad_parts_are_refused(tmp_path):
    from equipoise.language.distillation.trainer import StudentTrainer

    with pytest.raises(ValueError, match="teacher is missing"):
        StudentTrainer(tiny_model(0), _arguments(tmp_path))
    with pytest.raises(ValueError, match=r"corpus and lm_coef=0\.5 go together"):
        _trainer(tmp_path, objective=DistillationObjective(lm_coef=0.5))
    with pytest.raises(ValueError, match="corpus has no rows"):
        _trainer(tmp_path, objective=DistillationObjective(lm_coef=0.5), corpus=[])
    cache = write_teacher_cache(tiny_model(1), tiny_rows(2), tmp_path / "cache", k=3)
    with pytest.raises(ValueError, match="knows the prefixes of the data only"):
        _trainer(tmp_path, teacher=cache, prefixes=StudentPrefixes(SAMPLING))


def test_labels_alone_need_no_teacher(tmp_path):
    from equipoise.language.distillation.trainer import StudentTrainer

    trainer = StudentTrainer(
        tiny_model(0),
        _arguments(tmp_path, max_steps=1),
        objective=DistillationObjective(kd_ratio=0.0),
        train_dataset=tiny_rows(8),
        data_collator=collate_tokens,
    )
    trainer.train()
    assert trainer.state.log_history[0]["loss"] > 0


def _in_a_process(rank, folder, fused):
    warnings.simplefilter("ignore")
    objective = DistillationObjective(ABDivergenceLoss(), kd_ratio=0.7, lm_coef=0.3, fused=fused)
    settings = {"per_device_train_batch_size": 4, "optim": "sgd", "ddp_backend": "gloo"}
    trainer = _trained(folder, objective=objective, settings=settings, corpus=tiny_rows(5, seed=8))
    return _weights(trainer), [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.slow
@needs_two_processes
@pytest.mark.parametrize("fused", [False, True])
def test_two_processes_make_the_step_of_one(tmp_path, fused):
    weights, losses = in_two_processes(_in_a_process, tmp_path, fused, own_group=True)[0]
    objective = DistillationObjective(ABDivergenceLoss(), kd_ratio=0.7, lm_coef=0.3, fused=fused)
    one = _trained(tmp_path, objective=objective, settings={"optim": "sgd"}, corpus=tiny_rows(5, seed=8))
    torch.testing.assert_close(weights, _weights(one), rtol=1e-4, atol=1e-6)
    wanted = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(wanted), rtol=1e-4, atol=1e-5)
