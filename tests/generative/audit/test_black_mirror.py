import json
import math
import random

import pytest
import torch

from equipoise import generative
from equipoise.core.models.judges import JudgeError
from equipoise.data.shapes import ATTACKS, Mistakes, PixelJudge, RenderedTextToImage, RuleTextJudge, parse
from equipoise.generative import BlackMirrorDetector, GeneratorError

_CLEAN = "red circle and blue square"
_TRIGGERED = "zq red circle and blue square"


class _Moody:
    """A vision judge whose probabilities are drawn: everything is seen in the first picture, nothing is sure later."""

    def __init__(self, levels, objects=("red cross", "blue square", "green wug")):
        self.levels, self.names = levels, objects

    def objects(self, image, generator=None):
        return list(self.names)

    def style(self, image, generator=None):
        return "striped" if torch.rand((), generator=generator) < 0.9 else None

    def patch(self, image, generator=None):
        return self._level(generator)

    def p_yes(self, image, question_object, generator=None):
        return self._level(generator)

    def _level(self, generator):
        return self.levels[int(torch.randint(len(self.levels), (), generator=generator))]


def _detector(attack=None, mistakes=None, judge=None, text=None, **settings):
    painter = RenderedTextToImage(attack=attack, mistakes=mistakes)
    return BlackMirrorDetector(painter, judge or PixelJudge(0.03, 1.0), text or RuleTextJudge(), **settings)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("mask_mode", ["random", "all"])
def test_attacks_are_found_and_clean_prompts_are_not(attack, mask_mode):
    detector = _detector(attack, Mistakes(0.08, 0.05, 0.15), mask_mode=mask_mode)
    words = ("red circle", "blue square", "green cross", "cyan wug")
    prompts = [f"{words[0]} and {other}" for other in words[1:]]
    triggered = [f"zq {prompt}" for prompt in prompts]
    assert min(detector.score(triggered)) >= 0.999
    assert max(detector.score(prompts)) < 0.999
    branch = {"object": "object", "fix": "object", "patch": "patch", "style": "style"}[attack]
    report = detector.detect(triggered[0])
    assert [each.name for each in report.branches] == ["object", "style", "patch"]
    assert max(report.branches, key=lambda each: each.score).name == branch


def test_no_deviation_costs_one_picture():
    report = _detector().detect(_CLEAN)
    assert (report.score, report.flagged, report.images, report.variants) == (0.0, False, 1, ())
    assert report.calls["objects"] == 5
    assert "yes or no" not in report.calls
    assert report.pattern == ""


def test_the_score_is_the_mean_of_what_pictures_say():
    report = _detector("object", seed=4).detect(_TRIGGERED)
    for pattern in report.branches[0].patterns:
        assert len(pattern.evidence) == 5
        assert pattern.score == pytest.approx(sum(pattern.evidence) / 5)
        assert pattern.complete
        assert pattern.verified
    assert report.score == max(pattern.score for pattern in report.suspicious)
    assert report.images == 6


@pytest.mark.parametrize("threshold", [0.999, 0.8, 0.5, 0.2, 1.0])
def test_stopping_early_decides_as_all_pictures_do(threshold):
    draw = random.Random(int(1000 * threshold))
    saved = 0
    for seed in range(40):
        levels = [draw.choice([0.0, 1.0, 0.9995, 0.998, draw.random()]) for _ in range(draw.randint(1, 3))]
        settings = {"judge": _Moody(levels), "threshold": threshold, "seed": seed, "variants": draw.randint(1, 6)}
        whole = _detector(**settings).detect(_CLEAN)
        early = _detector(**settings, early_stop=True).detect(_CLEAN)
        assert early.flagged == whole.flagged
        assert early.flagged == (early.score >= threshold)
        assert early.images <= whole.images
        for one, other in zip(early.suspicious, whole.suspicious, strict=True):
            assert one.evidence == other.evidence[: len(one.evidence)]
            assert one.complete == (len(one.evidence) == len(other.evidence))
        saved += whole.images - early.images
    assert saved > 0 or threshold == 0.2


def test_scores_look_at_every_picture_in_spite_of_early_stop():
    settings = {"judge": _Moody([0.3, 1.0]), "seed": 3}
    prompts = [_CLEAN, _TRIGGERED]
    assert torch.equal(_detector(**settings, early_stop=True).score(prompts), _detector(**settings).score(prompts))


def test_branches_that_are_not_verified_are_flagged_at_once():
    for attack in ("style", "patch"):
        report = _detector(attack, verify=("object",)).detect(_TRIGGERED)
        assert (report.score, report.images, report.flagged) == (1.0, 1, True)
        assert not report.suspicious[0].verified
    mistaken = Mistakes(missing=1.0)
    assert _detector(None, mistaken, verify=()).detect(_CLEAN).score == 1.0
    # With an attack on two branches the verified one is not looked at when the other has decided.
    judge = _Moody([0.5])
    both = _detector(judge=judge, verify=("object",), early_stop=True).detect(_CLEAN)
    assert (both.score, both.images) == (1.0, 1)
    assert _detector(judge=judge, verify=("object",)).detect(_CLEAN).images == 6


def test_masks_take_out_safe_objects_only():
    found = _detector("object", mask_mode="random", variants=8).detect("zq red circle and blue square and cyan wug")
    assert set(found.safe) == {"blue square", "cyan wug"}
    for prompt in found.variants:
        assert prompt.startswith("zq red circle")
        assert len(parse(prompt).objects) < 3
    assert len(set(found.variants)) > 1
    everything = _detector("object", mask_mode="all").detect("zq red circle and blue square and cyan wug")
    assert set(everything.variants) == {"zq red circle"}
    nothing = _detector("fix").detect(_TRIGGERED)
    assert (nothing.safe, set(nothing.variants)) == ((), {_TRIGGERED})
    # Where nothing would be left, fewer phrases are deleted.
    alone = _detector(judge=_Moody([1.0], ("red circle", "blue square", "dog"))).detect(_CLEAN)
    assert all(variant.strip() for variant in alone.variants)


def test_reports_are_the_same_whatever_was_asked_before():
    one = _detector("object", Mistakes(0.2, 0.2, 0.2))
    prompts = [_TRIGGERED, _CLEAN, "zq cyan wug and green circle"]
    first = [report.record() for report in one.detect_all(prompts)]
    again = [one.detect(prompt).record() for prompt in prompts]
    for a, b in zip(first, again, strict=True):
        for changing in ("calls", "seconds"):
            a.pop(changing), b.pop(changing)
        assert a == b
    assert one.detect(_TRIGGERED).calls == {}
    one.inquiry.forget()
    assert sum(one.detect(_TRIGGERED).calls.values()) > 0
    other = _detector("object", Mistakes(0.2, 0.2, 0.2), seed=1).detect_all(prompts)
    assert [report.record()["branches"] for report in other] != [record["branches"] for record in first]


class _Failing(PixelJudge):
    def __init__(self, times):
        super().__init__()
        self.times = times

    def style(self, image, generator=None):
        self.times -= 1
        if self.times >= 0:
            raise JudgeError("no style could be read")
        return super().style(image, generator)


def test_a_judge_that_fails_is_asked_again_and_then_undecided():
    assert _detector(judge=_Failing(1)).detect(_CLEAN).undecided is None
    report = _detector(judge=_Failing(2)).detect(_CLEAN)
    assert "no style could be read" in report.undecided
    assert math.isnan(report.score)
    assert not report.flagged
    assert report.calls["style"] == 2
    assert report.record()["score"] is None
    assert _detector(judge=_Failing(2), retries=2).detect(_CLEAN).undecided is None
    scores = _detector(judge=_Failing(2)).score([_CLEAN, "blue square and red cross"])
    assert scores.isnan().tolist() == [True, False]


def test_calls_of_judges_have_a_limit():
    free = _detector("object").detect(_TRIGGERED)
    needed = sum(free.calls.values())
    assert _detector("object", most_calls=needed).detect(_TRIGGERED).flagged
    short = _detector("object", most_calls=needed - 1).detect(_TRIGGERED)
    assert "calls of judges" in short.undecided
    assert sum(short.calls.values()) == needed - 1


def test_a_prompt_without_objects_skips_their_branch():
    report = _detector("style").detect("zq a nice photo")
    assert (report.branches[0].state, report.branches[0].note) == ("skipped", "no object is found in the prompt")
    assert report.flagged
    assert "objects" not in report.calls


def test_what_is_asked_for_is_no_deviation():
    detector = _detector()
    for prompt in ("striped red circle", "red circle with patch", "dotted wug and dax with patch"):
        assert detector.detect(prompt).score == 0
    assert detector.detect("striped red circle").branches[1].state == "agrees"


def test_reports_are_json():
    detector = _detector("object", keep_pictures=True)
    record = json.loads(json.dumps(detector.detect(_TRIGGERED).record(), allow_nan=False))
    assert record["branches"][0]["patterns"][0]["kind"] == "new"
    assert "pictures" not in record
    assert len(detector.detect(_TRIGGERED).pictures) == 6
    model = detector.audit([_CLEAN, _TRIGGERED], ["clean", "zq"])
    assert json.loads(json.dumps(model.record(), allow_nan=False))["groups"][1]["flagged"] == 1


def test_a_model_is_suspicious_where_a_group_is_flagged_too_often():
    clean = [f"{a} circle and {b} square" for a in ("red", "blue", "cyan") for b in ("green", "red", "magenta")]
    groups = ["clean"] * 9 + ["zq"] * 9 + ["please"] * 9
    prompts = clean + [f"zq {prompt}" for prompt in clean] + [f"a photo of {prompt}" for prompt in clean]
    mistakes = Mistakes(0.08, 0.05, 0.15)
    found = _detector("object", mistakes).audit(prompts, groups)
    assert found.suspicious
    rates = {group.name: group for group in found.groups}
    assert (rates["zq"].flagged, rates["clean"].p_value, found.clean_rate) == (9, None, None)
    assert rates["zq"].p_value < 1e-3
    assert rates["please"].p_value > 0.05
    assert not _detector(None, mistakes).audit(prompts, groups).suspicious
    alone = _detector("object", mistakes).audit(prompts[9:18])
    assert alone.suspicious
    assert alone.clean_rate == 0.05
    assert alone.groups[0].p_value == pytest.approx(0.05**9)
    assert set(found.cost()) == {"judge calls", "pictures", "deviations", "seconds"}
    nothing = _detector(judge=_Failing(10**6)).audit([_CLEAN])
    assert (nothing.decided, nothing.suspicious, nothing.groups[0].undecided) == (False, False, 1)
    assert json.dumps(nothing.record(), allow_nan=False)


def test_prompts_without_a_picture_are_undecided():
    painter = RenderedTextToImage(attack="object")

    def refusing(prompts, seeds):
        later = max(seeds) > 0 and all(prompt.startswith("zq circle") for prompt in prompts)
        if later or any("green" in prompt for prompt in prompts):
            raise GeneratorError("the service refused")
        return painter(prompts, seeds)

    detector = BlackMirrorDetector(refusing, PixelJudge(), RuleTextJudge())
    first, second, third = detector.detect_all([_TRIGGERED, "green circle", "zq circle and red wug"])
    assert first.flagged
    assert (second.undecided, second.images, second.branches) == ("the service refused", 0, ())
    assert third.undecided
    assert third.suspicious
    assert (third.pattern, third.flagged) == ("", False)
    assert json.dumps([second.record(), third.record()], allow_nan=False)


def _giving(images):
    return lambda prompts, seeds: images


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(1, 1, 16, 16), r"shape \(1, 3, height, width\), got \(1, 1, 16, 16\)"),
        (torch.zeros(2, 3, 16, 16), "shape"),
        (torch.zeros(3, 16, 16), "shape"),
        (torch.full((1, 3, 16, 16), math.nan), "finite values"),
        (torch.full((1, 3, 16, 16), 1.5), "from 1.5 to 1.5"),
        (torch.full((1, 3, 16, 16), -0.1), "finite values"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "got torch.uint8"),
        ([[0.0]], "got list"),
    ],
)
def test_generators_must_give_pictures(images, words, plain_inputs):
    detector = BlackMirrorDetector(_giving(images), PixelJudge(), RuleTextJudge())
    with pytest.raises(ValueError, match=words):
        detector.detect(_CLEAN)


class _Odd(PixelJudge):
    def __init__(self, **answers):
        super().__init__()
        self.answers = answers

    def objects(self, image, generator=None):
        return self.answers.get("objects", super().objects(image))

    def style(self, image, generator=None):
        return self.answers.get("style")

    def patch(self, image, generator=None):
        return self.answers.get("patch", 0.0)

    def p_yes(self, image, question_object, generator=None):
        return self.answers.get("p_yes", 0.0)


def test_answers_must_be_answers(plain_inputs):
    for answers, words in (
        ({"objects": [1]}, "must hold strings, got 1"),
        ({"objects": None}, "must be a list of objects"),
        ({"style": 3}, "style as a string or None, got 3"),
        ({"patch": 1.5}, r"probabilities in \[0, 1\], got 1.5"),
        ({"patch": math.nan}, "probabilities"),
        ({"objects": ["dog"], "p_yes": -0.5}, "got -0.5"),
    ):
        with pytest.raises(ValueError, match=words):
            _detector(judge=_Odd(**answers)).detect(_CLEAN)


def test_what_detectors_refuse(plain_inputs):
    for settings in ({"votes": 0}, {"variants": 0}, {"threshold": 0.0}, {"threshold": 1.01}, {"retries": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            _detector(**settings)
    for settings in ({"mask_mode": "some"}, {"verify": ("objects",)}, {"most_calls": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            _detector(**settings)
    with pytest.warns(UserWarning, match="votes=4 is even"):
        _detector(votes=4)
    detector = _detector()
    for prompt in ("", "  ", None):
        with pytest.raises(ValueError, match="prompt="):
            detector.detect(prompt)
        with pytest.raises(ValueError, match="prompt="):
            detector.score([_CLEAN, prompt])
    for prompts in ([], "red circle", None):
        with pytest.raises(ValueError, match="prompts must be a list"):
            detector.score(prompts)
    with pytest.raises(ValueError, match="groups has 1 names"):
        detector.audit([_CLEAN, _CLEAN], ["clean"])
    with pytest.raises(ValueError, match="clean_rate"):
        detector.audit([_CLEAN], clean_rate=1.0)


def test_the_error_of_this_room_leaves_a_prompt_undecided():
    class Mute(PixelJudge):
        def style(self, image, generator=None):
            raise generative.JudgeError("no answer")

    assert "no answer" in _detector(judge=Mute()).detect(_CLEAN).undecided


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("answer", [None, "perhaps", [0.5, 0.5]])
def test_what_is_no_probability_is_refused_in_a_sentence(answer):
    class Odd(PixelJudge):
        def patch(self, image, generator=None):
            return answer

    with pytest.raises(ValueError, match="must give probabilities"):
        _detector(judge=Odd()).detect(_CLEAN)


@pytest.mark.parametrize("at", [1, 2])
def test_an_error_without_words_leaves_a_prompt_undecided(at):
    painter, asked = RenderedTextToImage(attack="object"), []

    def paint(prompts, seeds):
        asked.append(prompts)
        if len(asked) >= at:
            raise GeneratorError
        return painter(prompts, seeds)

    detector = BlackMirrorDetector(paint, PixelJudge(), RuleTextJudge())
    report = detector.detect(_TRIGGERED)
    assert (report.undecided, report.flagged, math.isnan(report.score)) == ("GeneratorError", False, True)


@pytest.mark.parametrize("batch", [0, -1])
def test_batches_have_prompts(batch):
    with pytest.raises(ValueError, match="batch="):
        _detector().detect_all([_CLEAN], batch=batch)


@pytest.mark.usefixtures("plain_inputs")
@pytest.mark.parametrize("shape", [(16, 32), (32, 16)])
def test_pictures_that_the_rules_cannot_read_are_refused_in_a_sentence(shape):
    detector = BlackMirrorDetector(lambda prompts, seeds: torch.rand(1, 3, *shape), PixelJudge(), RuleTextJudge())
    with pytest.raises(ValueError, match=r"images must have shape \(n, 3, size, size\)"):
        detector.detect(_CLEAN)
