"""Judges, their sheet and their answers, cleaners, near copies."""

import io
import itertools

import pytest
import torch
from PIL import Image

from equipoise.core.models import judges
from equipoise.generative import (
    ClusterCleaner,
    ContactSheetJudge,
    IdentityJudge,
    JudgeCleaner,
    JudgeError,
    MedoidJudge,
    NoisyOracleJudge,
    auto_threshold_cluster,
    contact_sheet,
    largest_consistent_cluster,
    near_copies,
)
from equipoise.generative.curation.contact_sheet import parse_answer


def _rows(seed, n, d=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("1", [0]),
        (" 3 , 1,3 ", [0, 2]),
        ("2.", [1]),
        ("none", []),
        ("None.", []),
        ("0", None),
        ("5", None),
        ("1, 5", None),
        ("", None),
        ("1 2", None),
        ("1, none", None),
        ("number 2", None),
        ("-1", None),
        ("1,", None),
        ("²", None),
        (None, None),
    ],
)
def test_an_answer_is_a_list_of_numbers_on_the_sheet_or_none(answer, wanted):
    assert parse_answer(answer, 4) == wanted


def _pictures(n):
    return [torch.full((3, 6, 9), k / n) for k in range(n)]


def test_the_question_is_repeated_until_an_answer_can_be_used():
    asked = []

    def ask(png, question):
        asked.append((Image.open(io.BytesIO(png)).size, question))
        return ["no idea", "9", "2, 3"][len(asked) - 1]

    judge = ContactSheetJudge(ask, columns=2, cell=20)
    assert isinstance(judge, IdentityJudge)
    assert judge.outliers(_pictures(4)) == [1, 2]
    assert len(set(asked)) == 1
    assert asked[0][0] == (44, 72)
    assert "4 numbered pictures" in asked[0][1]
    assert judge.outliers([]) == []


def test_without_an_answer_everything_is_kept_unverified():
    calls = []
    judge = ContactSheetJudge(lambda png, question: calls.append(1) or "all of them", tries=3)
    with pytest.raises(JudgeError, match="3 answers were no list of numbers from 1 to 2; the last: 'all of them'"):
        judge.outliers(_pictures(2))
    decision = JudgeCleaner(judge)(_pictures(2), torch.eye(2))
    assert decision.kept == [0, 1]
    assert not decision.verified
    assert len(calls) == 6


def test_a_sheet_shows_every_picture_and_a_number(tmp_path):
    Image.new("RGB", (10, 5), (255, 0, 0)).save(tmp_path / "red.png")
    sheet = contact_sheet([torch.zeros(1, 8, 8), tmp_path / "red.png", Image.new("L", (4, 4), 128)], columns=3, cell=10)
    assert sheet.size == (36, 26)
    assert [sheet.getpixel((12 * k + 3, 16)) for k in range(3)] == [(0, 0, 0), (255, 0, 0), (128, 128, 128)]
    for k in range(3):  # the number
        assert sheet.crop((12 * k, 0, 12 * k + 11, 13)).convert("L").getextrema()[0] < 128


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], "images is empty"),
        ([torch.zeros(2, 4, 4)], r"images\[0\] must have shape"),
        ([torch.zeros(3, 4, 4), torch.full((3, 4, 4), 2.0)], r"images\[1\] holds values outside"),
        (["/no/such/file.png"], "cannot be read as an image"),
        ([3], "must be a file, a picture or a tensor, got int"),
    ],
)
def test_what_cannot_be_shown_is_refused(images, words):
    with pytest.raises(ValueError, match=words):
        contact_sheet(images)


def test_the_medoid_judge_by_brute_force():
    rows = _rows(0, 12) + 1.5
    unit = rows / rows.norm(dim=1, keepdim=True)
    sums = [sum(float(unit[i] @ unit[j]) for j in range(12)) for i in range(12)]
    medoid = sums.index(max(sums))
    wanted = [k for k in range(12) if float(unit[k] @ unit[medoid]) < 0.8]
    assert 0 < len(wanted) < 12
    assert MedoidJudge(torch.stack, 0.8).outliers(list(rows)) == wanted
    assert MedoidJudge(torch.stack).outliers([]) == []


def test_an_oracle_errs_at_its_rate_and_repeats_itself():
    truth = NoisyOracleJudge(lambda sample: sample, flip=0.0)
    assert truth.outliers("aabac") == [2, 4]
    assert NoisyOracleJudge(lambda sample: sample, flip=1.0).outliers("aabac") == [0, 1, 3]
    judge = NoisyOracleJudge(lambda sample: sample[0], flip=0.1, seed=3)
    samples = [("a", k) for k in range(4000)]
    assert 0.08 < len(judge.outliers(samples)) / 4000 < 0.12
    assert judge.outliers(samples) == judge.outliers(samples)
    assert judge.outliers(samples) != NoisyOracleJudge(lambda sample: sample[0], 0.1, 4).outliers(samples)


class _Says:
    def __init__(self, found):
        self.found = found

    def outliers(self, images):
        return self.found


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("found", [[3], [-1], [0.5], [True], ["1"]])
def test_a_judge_that_names_an_unknown_sample_is_refused(found):
    with pytest.raises(ValueError, match=r"the judge names sample .*, which is none of the 3"):
        JudgeCleaner(_Says(found))([1, 2, 3], torch.eye(3))
    with pytest.raises(ValueError, match="judge must have a method outliers"):
        JudgeCleaner("a friend")


def test_cleaners_keep_what_their_function_keeps():
    rows = _rows(1, 20) + 1.0
    assert ClusterCleaner()([], rows).kept == auto_threshold_cluster(rows).indices.tolist()
    assert ClusterCleaner(0.7, min_samples=3)([], rows).kept == largest_consistent_cluster(rows, 0.7, 3).tolist()
    exact = ClusterCleaner(mode="exact", max_fraction=0.9, bounds=(0.2, 0.8))([], rows).kept
    wanted = auto_threshold_cluster(rows, max_fraction=0.9, bounds=(0.2, 0.8), mode="exact")
    assert exact == wanted.indices.tolist()
    assert JudgeCleaner(_Says([2, 0, 2]))([7, 8, 9], torch.eye(3)).kept == [1]
    with pytest.raises(ValueError, match="min_fraction"):
        ClusterCleaner(min_fraction=0.9)


def test_near_copies_by_brute_force():
    rows = _rows(2, 30, d=3)
    unit = rows / rows.norm(dim=1, keepdim=True)
    kept, wanted = [], []
    for i in range(30):
        near = [float(unit[i] @ unit[j]) for j in kept]
        if near and max(near) >= 0.9:
            wanted.append(kept[near.index(max(near))])
        else:
            wanted.append(-1)
            kept.append(i)
    found = near_copies(rows, 0.9)
    assert found.tolist() == wanted
    assert all(float(unit[i] @ unit[j]) < 0.9 for i, j in itertools.combinations(kept, 2))
    assert near_copies(rows[:0]).tolist() == []
    assert near_copies(torch.ones(4, 2)).tolist() == [-1, 0, 0, 0]


@pytest.mark.parametrize("kind", [JudgeError, judges.JudgeError])
def test_any_error_of_judges_is_no_answer(kind):
    class Mute:
        def outliers(self, images):
            raise kind("no answer")

    assert JudgeCleaner(Mute())([0, 1], _rows(0, 2)) == ([0, 1], False)


def test_a_number_of_thousands_of_digits_is_no_answer():
    assert parse_answer("9" * 5000, 5) is None


@pytest.mark.parametrize("question", ["{number} of them?", "{} of them?", "a {", "{size.none}"])
def test_a_question_holds_no_other_braces(question):
    with pytest.raises(ValueError, match="no braces but those of"):
        ContactSheetJudge(lambda png, asked: "none", question=question)


def test_a_file_that_its_decoder_does_not_know_is_no_picture(tmp_path):
    header = bytearray(b"DDS " + bytes(124))
    header[4:8], header[12:20], header[76:80] = (124).to_bytes(4, "little"), b"\x10\0\0\0" * 2, b"\x20\0\0\0"
    (tmp_path / "a.png").write_bytes(bytes(header))
    with pytest.raises(ValueError, match="cannot be read as an image"):
        contact_sheet([tmp_path / "a.png"])
