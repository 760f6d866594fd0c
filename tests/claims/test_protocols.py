"""What the protocols of tuned claims promise: the same batches and first weights for every arm, and losses as named."""

import re

import pytest
import torch

from equipoise.claims import available_claims, load_claim
from equipoise.claims.lab import linear
from equipoise.claims.lab.linear import shuffled_batches, train_linear
from equipoise.claims.longtail import bilt
from equipoise.claims.openworld.tkpr import ranking_loss_of_all_pairs
from equipoise.openworld import PairwiseRankingLoss


def _seen(module, monkeypatch):
    """Fills, per training, with the rows of its batches."""
    seen = []

    def recorded(*arguments):
        seen.append([])
        for epoch, rows in shuffled_batches(*arguments):
            seen[-1].append(rows.tolist())
            yield epoch, rows

    monkeypatch.setattr(module, "shuffled_batches", recorded)
    return seen


def test_every_arm_of_bilt_sees_the_same_batches(monkeypatch):
    seen = _seen(bilt, monkeypatch)
    monkeypatch.setattr(bilt, "_EPOCHS", 1)
    (experiment,) = load_claim("bilt").experiments
    experiment.run(3, True, experiment.tuning.choose(quick=True))
    assert len(seen) == len(experiment.tuning.grids) == 4
    assert all(batches == seen[0] for batches in seen)
    assert sorted(row for rows in seen[0] for row in rows) == list(range(360))


def test_a_linear_model_starts_and_goes_through_the_batches_alike_whatever_its_loss(monkeypatch):
    seen, first = _seen(linear, monkeypatch), []
    x, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4

    def noted(loss):
        def evaluate(logits, target):
            if len(first) < len(seen):
                first.append(logits.detach())
            return loss(logits, target)

        return evaluate

    for loss, lr in ((torch.nn.CrossEntropyLoss(), 0.1), (torch.nn.MultiMarginLoss(), 2.0)):
        train_linear(x, y, 4, noted(loss), {"lr": lr, "decay": 0.1}, epochs=2, batch=8, seed=5)
    assert torch.equal(first[0], first[1])
    assert seen[0] == seen[1]
    assert [len(rows) for rows in seen[0]] == [8, 8, 4] * 2
    assert seen[0] != [rows.tolist() for _, rows in shuffled_batches(20, 8, 2, 6)]


def test_the_ranking_loss_of_all_pairs_is_the_public_one():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, 12, generator=generator, dtype=torch.float64)
    target = (torch.rand(30, 12, generator=generator) < 0.1).long()  # rows without a label among them
    target[0] = 1
    expected = PairwiseRankingLoss()(logits, target)
    assert float(ranking_loss_of_all_pairs(logits, target)) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("slug", ["bilt", "tkpr", "autkc", "multiclass-auc"])
def test_each_tuned_arm_has_as_many_distinct_settings_and_the_protocol_says_how_many(slug):
    tuned = [experiment for experiment in load_claim(slug).experiments if experiment.tuning is not None]
    assert tuned
    for experiment in tuned:
        sizes = {len({tuple(s.items()) for s in settings}) for settings in experiment.tuning.grids.values()}
        assert len(sizes) == 1
        assert f"{sizes.pop()} settings to choose from" in experiment.protocol.replace("\n", " ")


@pytest.mark.parametrize("slug", available_claims())
def test_a_protocol_that_speaks_of_tuning_is_tuned(slug):
    for experiment in load_claim(slug).experiments:
        assert ("to choose from" in experiment.protocol) == (experiment.tuning is not None)
        assert "tuned alike" not in experiment.protocol


def _written(rate):
    """Ways to write a rate: .04, 0.04, 4e-2."""
    plain = f"{rate:f}".rstrip("0").rstrip(".")
    digits, exponent = f"{rate:.0e}".split("e")
    return {plain, plain.removeprefix("0"), f"{digits}e{int(exponent)}"}


@pytest.mark.parametrize("slug", available_claims())
def test_every_learning_rate_that_is_tried_stands_in_the_protocol(slug):
    for experiment in load_claim(slug).experiments:
        grids = {} if experiment.tuning is None else experiment.tuning.grids
        tried = {setting["lr"] for settings in grids.values() for setting in settings if "lr" in setting}
        named = set(re.findall(r"(?<![\w.])(?:\d*\.)?\d+(?:e-?\d+)?", experiment.protocol))
        assert [rate for rate in sorted(tried) if not _written(rate) & named] == []
