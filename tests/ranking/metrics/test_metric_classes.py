"""The metric classes: batches, processes, state and pictures."""

import subprocess
import sys

import pytest
import torch
import torch.multiprocessing as mp
from torch import distributed

from equipoise.ranking import (
    AUROC,
    OPAUC,
    TPAUC,
    AveragePrecision,
    MulticlassAUROC,
    PartialAUROC,
    auroc,
    average_precision,
    multiclass_auroc,
    opauc,
    partial_auroc,
    tpauc,
)


def _data(n=101):
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(n, generator=generator) < 0.3).long()
    return (torch.randn(n, generator=generator) + target).round(decimals=1), target


def _multiclass_data(n=101):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=generator).round(decimals=1), torch.randint(0, 4, (n,), generator=generator)


CASES = [
    (AUROC, {}, auroc, _data),
    (OPAUC, {"max_fpr": 0.3}, opauc, _data),
    (TPAUC, {"max_fpr": 0.3, "min_tpr": 0.4, "normalization": "raw"}, tpauc, _data),
    (PartialAUROC, {"pos_frac": 0.5, "neg_frac": 0.3}, partial_auroc, _data),
    (AveragePrecision, {}, average_precision, _data),
    (MulticlassAUROC, {"average": "ovr"}, multiclass_auroc, _multiclass_data),
]


@pytest.mark.parametrize(("metric", "settings", "function", "data"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_batches_are_judged_as_one(metric, settings, function, data):
    scores, target = data()
    judge = metric(**settings)
    for rows in (slice(0, 10), slice(10, 11), slice(11, None)):
        judge.update(scores[rows], target[rows])
    assert judge.compute() == function(scores, target, **settings)
    judge.reset()
    judge.update(scores[:50], target[:50])
    assert judge.compute() == function(scores[:50], target[:50], **settings)


@pytest.mark.parametrize(("metric", "settings", "function", "data"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_a_saved_state_goes_on(metric, settings, function, data):
    scores, target = data()
    judge, later = metric(**settings), metric(**settings)
    judge.persistent(True)
    later.persistent(True)
    judge.update(scores[:60], target[:60])
    later.load_state_dict(judge.state_dict())
    later.update(scores[60:], target[60:])
    assert later.compute() == function(scores, target, **settings)


@pytest.mark.parametrize(("metric", "settings", "function", "data"), CASES, ids=lambda x: getattr(x, "__name__", ""))
def test_it_draws_itself(metric, settings, function, data):
    pytest.importorskip("matplotlib")
    judge = metric(**settings)
    judge.update(*data())
    figure, axes = judge.plot()
    assert axes in figure.axes
    assert axes.get_xlabel()
    assert axes.lines or axes.images


def test_the_region_is_shaded_up_to_its_bounds():
    pytest.importorskip("matplotlib")
    judge = OPAUC(max_fpr=0.2)
    judge.update(*_data())
    (shade,) = judge.plot()[1].collections
    assert shade.get_datalim(judge.plot()[1].transData).x1 >= 0
    assert shade.get_paths()[0].vertices[:, 0].max() == pytest.approx(0.2)


def test_a_metric_that_saw_nothing_has_no_picture():
    with pytest.raises(ValueError, match="has seen no samples"):
        AUROC().plot()


def test_batches_are_checked_as_they_come(plain_inputs):
    judge = MulticlassAUROC(num_classes=5)
    with pytest.raises(ValueError, match="num_classes=5"):
        judge.update(*_multiclass_data())
    with pytest.raises(ValueError, match="NaN"):
        AUROC().update(torch.tensor([float("nan")]), torch.tensor([1]))
    with pytest.raises(ValueError, match="max_fpr=5"):
        OPAUC(max_fpr=5)


def test_the_pair_matrix_names_the_confused_classes():
    judge = MulticlassAUROC()
    judge.update(*_multiclass_data())
    assert judge.pair_matrix().shape == (4, 4)
    assert judge.compute() == pytest.approx(float(judge.pair_matrix().nanmean()), rel=1e-6)


def _judge_a_share(rank, store, results):
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    values = []
    for metric, settings, _, data in CASES:
        scores, target = data()
        # Shares of different size, the second with a batch more.
        rows = slice(0, 30) if rank == 0 else slice(30, None)
        judge = metric(**settings)
        judge.update(scores[rows][:20], target[rows][:20])
        judge.update(scores[rows][20:], target[rows][20:])
        values.append(float(judge.compute()))
    results[rank] = values
    distributed.destroy_process_group()


def test_two_processes_judge_their_union(tmp_path):
    context = mp.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        mp.spawn(_judge_a_share, args=(tmp_path / "store", results), nprocs=2)
        wanted = [float(function(*data(), **settings)) for _, settings, function, data in CASES]
        assert results[0] == pytest.approx(wanted, rel=1e-6)
        assert results[1] == results[0]


def test_losses_and_functions_come_without_torchmetrics_and_matplotlib():
    program = """
import sys
import equipoise.ranking as ranking
assert not {"torchmetrics", "matplotlib", "sklearn"} & set(sys.modules)
assert all(hasattr(ranking, name) for name in ranking.__all__)
assert "torchmetrics" in sys.modules
assert not hasattr(ranking, "AUPRC")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
