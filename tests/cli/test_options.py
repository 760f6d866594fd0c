"""The options of each command are those of its request object, each once; what belongs elsewhere is one sentence."""

import re
from dataclasses import fields

import pytest

from equipoise.cli.main import main
from equipoise.cli.terminal import option_name
from equipoise.workflows import (
    AdaptRequest,
    AuditRequest,
    BenchRequest,
    BridgesRequest,
    BubbleRequest,
    ClicksRequest,
    CompleteRequest,
    CurateRequest,
    DebiasRequest,
    DistillRequest,
    EmbedRequest,
    EvaluateRequest,
    FitRequest,
    FuseRequest,
    MatchRequest,
    MultitaskRequest,
    OpenRequest,
    RankRequest,
    RecommendRequest,
    SaliencyRequest,
    SegmentationRequest,
    SegmentRequest,
    SpectrumRequest,
    TuneEncoderRequest,
)

_EVALUATE = ["evaluate", "scores.csv", "--target", "y", "--score", "s"]
_OPEN = {field.name for field in fields(OpenRequest)}
_BINARY = {field.name for field in fields(EvaluateRequest)}


def _options(command, capsys, monkeypatch):
    """Option → its line of help, from `--help`."""
    monkeypatch.setenv("COLUMNS", "400")
    main([*command, "--help"])
    lines = [line.strip(" │*\n") for line in capsys.readouterr().out.splitlines()]
    found = [re.match(r"(--[a-z-]+)(?: [A-Z.]+)*\s{2,}(.*)", line) for line in lines]
    return [(match[1], match[2]) for match in found if match]


@pytest.mark.parametrize(
    ("command", "requests", "more"),
    [
        (["fit"], [FitRequest], []),
        (["predict"], [], ["--output", "--overwrite", "--escape-formulas"]),
        (
            ["evaluate"],
            [EvaluateRequest, OpenRequest, SaliencyRequest, SegmentationRequest],
            ["--open", "--saliency", "--segmentation"],
        ),
        (["bubble"], [BubbleRequest], []),
        (["recommend"], [RecommendRequest], []),
        (["reproduce"], [], ["--all", "--seeds", "--quick", "--judge", "--output"]),
        (["clicks"], [ClicksRequest], []),
        (["complete"], [CompleteRequest], []),
        (["rank"], [RankRequest], []),
        (["embed"], [EmbedRequest], []),
        (["multitask"], [MultitaskRequest], []),
        (["segment"], [SegmentRequest], []),
        (["fuse"], [FuseRequest], []),
        (["spectrum"], [SpectrumRequest], []),
        (["match"], [MatchRequest], ["--json"]),
        (["debias"], [DebiasRequest], []),
        (["distill"], [DistillRequest], []),
        (["adapt"], [AdaptRequest], []),
        (["tune-encoder"], [TuneEncoderRequest], []),
        (["audit"], [AuditRequest], ["--prompts"]),
        (["curate"], [CurateRequest], []),
        (["bench", "tabular"], [BenchRequest], ["--held-out"]),
        (["bench", "bridges"], [BridgesRequest], ["--json"]),
    ],
)
def test_the_help_lists_every_field_of_the_request_once(command, requests, more, capsys, monkeypatch):
    found = _options(command, capsys, monkeypatch)
    names = {f"--{option_name(field.name)}" for request in requests for field in fields(request)}
    assert sorted(name for name, _ in found) == sorted([*names, *more])
    assert all(text for _, text in found)


@pytest.mark.parametrize(
    "command", [["fit", "t.csv"], ["predict", "m", "t.csv"], _EVALUATE, ["reproduce", "tpauc"], ["bench", "tabular"]]
)
def test_an_unknown_option_is_one_sentence(command, capsys):
    assert "--bogus" in _refused([*command, "--bogus"], capsys)


def _given(request, names):
    """(field, what a user types behind its option) of those fields."""
    chosen = [field for field in fields(request) if field.name in names]
    return [(field.name, [] if field.type is bool else ["7"]) for field in chosen]


@pytest.mark.parametrize(("name", "value"), _given(EvaluateRequest, _BINARY - _OPEN))
def test_an_option_for_a_binary_target_has_no_meaning_with_open(name, value, capsys):
    said = _refused([*_EVALUATE, "--open", f"--{option_name(name)}", *value], capsys)
    assert said == f"equipoise: --{option_name(name)} belongs to a binary target and has no meaning with --open"


@pytest.mark.parametrize(("name", "value"), _given(OpenRequest, _OPEN - _BINARY))
def test_an_option_for_an_open_world_needs_open(name, value, capsys):
    said = _refused([*_EVALUATE, f"--{option_name(name)}", *value], capsys)
    assert said == f"equipoise: --{option_name(name)} needs --open"


def _refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    return said
