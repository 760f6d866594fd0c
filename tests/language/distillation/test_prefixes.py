import pytest
import torch

from equipoise.language.distillation.data import TokenRow, collate_tokens
from equipoise.language.distillation.prefixes import (
    Moment,
    Sampling,
    StudentPrefixes,
    answer_prompts,
    generate_batch,
    until_end,
)
from equipoise.language.distillation.replay import AdaptiveReplay
from tiny_language import tiny_model, tiny_rows

SAMPLING = Sampling(max_new_tokens=6, eos_token_ids=(1,))


@pytest.fixture
def student():
    return tiny_model(3)


def _prompts(rows):
    return [row.input_ids[: sum(label == -100 for label in row.labels)] for row in rows]


def test_prompts_of_different_length_are_kept_whole_and_answers_end_with_the_first_end(student):
    with torch.no_grad():
        student.lm_head.weight[1] += 2 * student.lm_head.weight.abs().mean()
    rows = tiny_rows(16)
    found = generate_batch(student, collate_tokens(rows), SAMPLING, seed=1)
    ends = 0
    for prompt, ids, labels, mask in zip(
        _prompts(rows), found["input_ids"], found["labels"], found["attention_mask"], strict=True
    ):
        assert ids[: len(prompt)].tolist() == list(prompt)
        said = ids[len(prompt) : int(mask.sum())]
        assert labels.tolist() == [-100] * len(prompt) + said.tolist() + [-100] * int((mask == 0).sum())
        assert 1 not in said[:-1]
        assert len(said) == 6 or said[-1] == 1
        ends += int(said[-1] == 1)
    assert 0 < ends < 16


def test_the_token_of_the_end_is_learnt_when_padding_is_the_same_token(student):
    same = Sampling(max_new_tokens=4, pad_token_id=1, eos_token_ids=(1,))
    with torch.no_grad():
        student.lm_head.weight.zero_()
        student.model.norm.weight.zero_()  # every token is as likely
    found = generate_batch(student, collate_tokens(tiny_rows(64), 1), same, seed=0)
    short = [labels for labels, mask in zip(found["labels"], found["attention_mask"], strict=True) if 1 in labels]
    assert short
    assert all(int((labels == 1).sum()) == 1 for labels in short)


def test_generation_is_that_of_the_model_and_leaves_modes_and_draws_alone(student):
    student.train()
    batch = collate_tokens(tiny_rows(4))
    state = torch.get_rng_state()
    first = generate_batch(student, batch, SAMPLING, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert student.training
    again = generate_batch(student, batch, SAMPLING, seed=2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = generate_batch(student, batch, SAMPLING, seed=3)["input_ids"]
    assert other.shape != first["input_ids"].shape or not torch.equal(first["input_ids"], other)


def test_padding_does_not_move_what_is_drawn_from():
    """At a low temperature the draw is the likeliest token, of a row alone and beside a longer one."""
    student = tiny_model(3, scale=100.0)
    greedy = Sampling(max_new_tokens=4, temperature=1e-2)
    rows = tiny_rows(6)
    together = generate_batch(student, collate_tokens(rows), greedy)
    for place, row in enumerate(rows):
        alone = generate_batch(student, collate_tokens([row]), greedy)["input_ids"][0]
        assert together["input_ids"][place, : len(alone)].tolist() == alone.tolist()


def test_student_prefixes_come_with_their_probability(student):
    batch = collate_tokens(tiny_rows(2))
    source = StudentPrefixes(Sampling(max_new_tokens=1), lmbda=0.3, seed=4)
    taken = [source.replace(batch, student, Moment(step)) is not batch for step in range(300)]
    assert 0.2 < sum(taken) / 300 < 0.4
    assert StudentPrefixes(SAMPLING, lmbda=0.0).replace(batch, student, Moment()) is batch
    one, two = (StudentPrefixes(SAMPLING, seed=1).replace(batch, student, Moment(3, process=p)) for p in (0, 1))
    assert one["input_ids"].tolist() != two["input_ids"].tolist()


def test_answers_of_a_teacher_keep_prompts_and_numbers(student):
    rows = tiny_rows(5)
    found = answer_prompts(student, rows, SAMPLING, batch_size=2)
    assert [row.row for row in found] == list(range(5))
    assert [row[: len(prompt)] for row, prompt in zip((r.input_ids for r in found), _prompts(rows), strict=True)] == (
        _prompts(rows)
    )


@pytest.mark.parametrize("schedule", ["decreasing", "constant", "increasing"])
@pytest.mark.parametrize("full", [False, True])
def test_origins_are_those_of_the_schedule(schedule, full):
    replay = AdaptiveReplay(SAMPLING, schedule=schedule, init_threshold=0.6, capacity=2)
    if full:
        replay.load_state_dict({**replay.state_dict(), **_texts(2)})
    now = {"decreasing": 0.6 * 0.75, "constant": 0.3, "increasing": 0.6 * 0.25}[schedule]
    for draw in [0.0, 0.1, 0.2, 0.29, 0.31, 0.44, 0.46, 0.59, 0.61, 0.99]:
        wanted = "student" if draw < now or (draw < 0.6 and not full) else "buffer" if draw < 0.6 else "data"
        assert replay.origin(draw, Moment(25, 100)) == wanted


def _texts(count):
    rows = tiny_rows(count)
    return {
        "ids": torch.tensor([token for row in rows for token in row.input_ids]),
        "labels": torch.tensor([token for row in rows for token in row.labels]),
        "lengths": torch.tensor([len(row.input_ids) for row in rows]),
    }


def test_the_threshold_grows_where_the_held_out_loss_rises():
    replay = AdaptiveReplay(SAMPLING, loss_eps=0.1)
    found = []
    for loss in [1.0, 1.05, 0.5, 1.1, 1.15, 1.25]:
        replay.validated(loss)
        found.append(replay.threshold)
    assert found == [0.0, 0.0, 0.0, 0.1, 0.1, 0.2]
    for loss in range(2, 20):
        replay.validated(loss)
    assert replay.threshold == 1.0


def test_the_buffer_keeps_the_newest_texts_and_is_trained_on(student):
    replay = AdaptiveReplay(SAMPLING, init_threshold=1.0, schedule="increasing", capacity=3)
    batch = collate_tokens(tiny_rows(2))
    fresh = [replay.replace(batch, student, Moment(step, 10**9)) for step in range(2)]
    assert len(replay) == 3
    old = replay.replace(batch, student, Moment(2, 10**9))
    rows = {
        tuple(ids[mask == 1].tolist())
        for each in fresh
        for ids, mask in zip(each["input_ids"], each["attention_mask"], strict=True)
    }
    replayed = {
        tuple(ids[mask == 1].tolist()) for ids, mask in zip(old["input_ids"], old["attention_mask"], strict=True)
    }
    assert replayed <= rows
    assert len(old["input_ids"]) == 2


def test_a_replay_goes_on_from_what_it_saved(tmp_path, student):
    replay = AdaptiveReplay(SAMPLING, init_threshold=0.4)
    replay.validated(1.0)
    replay.validated(2.0)
    replay._buffer.extend(tiny_rows(3))
    replay.save(tmp_path)
    other = AdaptiveReplay(SAMPLING)
    other.load(tmp_path)
    assert other.threshold == 0.5
    assert [row.input_ids for row in other._buffer] == [list(row.input_ids) for row in tiny_rows(3)]
    other.validated(2.05)
    assert other.threshold == 0.5
    (tmp_path / "replay.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match="holds no whole replay buffer"):
        other.load(tmp_path)


def test_bad_settings_are_refused(plain_inputs, student):
    with pytest.raises(ValueError, match="max_new_tokens"):
        Sampling(max_new_tokens=0)
    with pytest.raises(ValueError, match="top_p"):
        Sampling(top_p=0.0)
    with pytest.raises(ValueError, match="lmbda=2"):
        StudentPrefixes(SAMPLING, lmbda=2)
    with pytest.raises(ValueError, match="schedule"):
        AdaptiveReplay(SAMPLING, schedule="sometimes")
    with pytest.raises(ValueError, match="row 0 of the batch has no prompt"):
        generate_batch(student, collate_tokens([TokenRow([1, 2], [1, 2], 0)]), SAMPLING)


def test_where_texts_end():
    assert until_end(torch.tensor([4, 5]), [1, 2]).tolist() == [4, 5]
    assert until_end(torch.tensor([2, 1]), [1, 2]).tolist() == [2]
    assert until_end(torch.tensor([2, 1]), []).tolist() == [2, 1]
