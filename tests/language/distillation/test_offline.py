import json

import pytest
import torch

from equipoise.core.token_divergence.families import AlphaBeta, JensenShannon
from equipoise.language.distillation.data import TokenRow, collate_tokens
from equipoise.language.distillation.divergence_loss import TokenDivergenceLoss
from equipoise.language.distillation.objective import DistillationObjective
from equipoise.language.distillation.offline import TeacherCache, write_teacher_cache
from tiny_language import tiny_model, tiny_rows


@pytest.fixture
def pair():
    return tiny_model(0, scale=5.0), tiny_model(1, hidden=24, heads=3, scale=8.0)


def _slopes(objective, student, teacher, batch):
    student.zero_grad()
    loss = objective(student, teacher, batch).loss
    loss.backward()
    return loss.detach(), [value.grad.clone() for value in student.parameters()]


@pytest.mark.parametrize("divergence", [AlphaBeta(1, 0), AlphaBeta(0, 1), AlphaBeta(0.2, 0.7), JensenShannon(0.3)])
def test_a_cache_of_the_whole_vocabulary_is_the_teacher(tmp_path, pair, divergence):
    student, teacher = pair
    rows = tiny_rows()
    cache = write_teacher_cache(teacher, rows, tmp_path, k=23, shard_rows=3, batch_size=2)
    for part in (rows, rows[5:2:-1]):
        objective = DistillationObjective(TokenDivergenceLoss(divergence), kd_ratio=0.8)
        loss, slopes = _slopes(objective, student, cache, collate_tokens(part))
        wanted, others = _slopes(objective, student, teacher, collate_tokens(part))
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(slopes, others, rtol=1e-4, atol=1e-6)


def test_few_tokens_bound_the_divergence_from_below_and_more_come_closer(tmp_path, pair):
    student, teacher = pair
    rows = tiny_rows()
    batch = collate_tokens(rows)
    for divergence in (AlphaBeta(1, 0), AlphaBeta(0, 1), JensenShannon(0.5), AlphaBeta(0.5, 0.5)):
        objective = DistillationObjective(TokenDivergenceLoss(divergence))
        found = [
            float(objective(student, write_teacher_cache(teacher, rows, tmp_path / f"{k}", k=k), batch).loss.detach())
            for k in (1, 4, 12, 20, 22)
        ]
        whole = float(objective(student, teacher, batch).loss.detach())
        assert found == sorted(found)
        assert found[-1] <= whole + 1e-6
        assert found[0] < 0.999 * found[-1]
    # One outcome left out of 23 is a bucket of one token: nothing is lost.
    torch.testing.assert_close(found[-1], whole)


def test_kept_values_are_the_teachers(tmp_path, pair):
    _, teacher = pair
    rows = tiny_rows()
    cache = write_teacher_cache(teacher, rows, tmp_path, k=5, shard_rows=4, batch_size=3)
    for row in rows:
        index, log_probs = cache.read(row.row)
        log_p = teacher(torch.tensor([row.input_ids])).logits[0].log_softmax(1)
        log_p = log_p[:-1][torch.tensor(row.labels[1:]) != -100].detach()
        torch.testing.assert_close(log_probs[:, :5], log_p.topk(5).values)
        torch.testing.assert_close(log_p.gather(1, index), log_probs[:, :5])
        torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(len(log_p)))


def test_a_label_is_found_among_the_kept_tokens_or_in_the_rest(tmp_path, pair):
    student, teacher = pair
    rows = tiny_rows(2)
    cache = write_teacher_cache(teacher, rows, tmp_path, k=3)
    batch = collate_tokens(rows)
    labels = torch.cat([batch["labels"][:, 1:], torch.full((2, 1), -100)], 1)
    _, _, among = cache.compare(student(batch["input_ids"]).logits, batch["row"], labels)
    assert torch.equal(among == -100, labels == -100)
    kept = torch.cat([cache.read(row)[0] for row in (0, 1)])
    for token, place, index in zip(labels[labels != -100], among[among != -100], kept, strict=True):
        assert (place == 3 and token not in index) or index[place] == token


def test_a_stopped_run_goes_on_and_asks_only_for_what_is_missing(tmp_path, pair):
    _, teacher = pair
    rows = tiny_rows()
    write_teacher_cache(teacher, rows, tmp_path, k=4, shard_rows=3)
    whole = {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    (tmp_path / "00001.safetensors").unlink()
    with pytest.raises(ValueError, match=r"00001\.safetensors is missing; run write_teacher_cache again"):
        TeacherCache(tmp_path)
    told = []
    write_teacher_cache(teacher, rows, tmp_path, k=4, shard_rows=3, progress=told.append)
    assert told == ["asking the teacher, part 2 of 3"]
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == whole


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("teacher", lambda teacher, rows: {"teacher": tiny_model(2, hidden=24, heads=3, scale=8.0)}),
        ("data", lambda teacher, rows: {"rows": [*rows[:-1], TokenRow([3, 4], [-100, 4], 7)]}),
        ("k", lambda teacher, rows: {"k": 5}),
    ],
)
def test_a_cache_is_not_used_for_anything_else(tmp_path, pair, name, change):
    _, teacher = pair
    given = {"teacher": teacher, "rows": tiny_rows(), "k": 4}
    write_teacher_cache(**given, folder=tmp_path)
    given |= change(teacher, given["rows"])
    with pytest.raises(ValueError, match=f"holds a cache whose {name} differs"):
        write_teacher_cache(**given, folder=tmp_path)


def test_other_cuts_of_a_row_are_refused(tmp_path, pair):
    student, teacher = pair
    cache = write_teacher_cache(teacher, tiny_rows(), tmp_path, k=4)
    batch = collate_tokens([TokenRow([2, 3, 4], [-100, -100, 4], 0)])
    with pytest.raises(ValueError, match="row 0 has 1 tokens to learn"):
        DistillationObjective()(student, cache, batch)
    with pytest.raises(ValueError, match="row=8 is none of the 8 rows"):
        cache.read(8)
    with pytest.raises(ValueError, match="must be numbered"):
        write_teacher_cache(teacher, tiny_rows()[1:], tmp_path / "other")
    with pytest.raises(ValueError, match="k=24 is more than the 23 tokens"):
        write_teacher_cache(teacher, tiny_rows(), tmp_path / "more", k=24)
    (tmp_path / "teacher.json").write_text(json.dumps({"format": 9}))
    with pytest.raises(ValueError, match="write the cache anew"):
        TeacherCache(tmp_path)


def test_a_batch_without_labels_is_no_trouble(tmp_path, pair):
    student, teacher = pair
    rows = [TokenRow([2, 3], [-100, -100], 0), *[TokenRow(r.input_ids, r.labels, r.row + 1) for r in tiny_rows(2)]]
    cache = write_teacher_cache(teacher, rows, tmp_path, k=4)
    loss, slopes = _slopes(DistillationObjective(), student, cache, collate_tokens(rows[:1]))
    assert loss == 0
    assert all((slope == 0).all() for slope in slopes)
