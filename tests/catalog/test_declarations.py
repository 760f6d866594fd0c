"""What the rooms declare is what can be chosen by name, and belongs to papers that work."""

import pytest
import torch

from equipoise.catalog import declared, declared_by, find_paper, load_catalog, rooms
from equipoise.catalog.declarations import declarations
from equipoise.core.registry import CriterionKind, Objective, OptimizerChoice, by_name, list_length, rarer_half
from equipoise.ranking import Criterion
from equipoise.training import OBJECTIVES, OPTIMIZERS


def test_what_is_declared_belongs_to_a_paper_that_is_written_and_can_be_chosen():
    for declaration in declarations():
        if declaration.paper is not None:
            assert find_paper(declaration.paper).provides
            assert declaration in declared_by(declaration.paper)
    assert set(declared(Objective)) < set(OBJECTIVES)
    assert set(declared(OptimizerChoice)) < set(OPTIMIZERS)
    assert set(rooms()) == {paper.room for paper in load_catalog() if paper.provides}


@pytest.mark.parametrize("kind", declared(CriterionKind).values(), ids=lambda kind: kind.name)
def test_a_criterion_is_1_where_every_decision_is_right_and_less_where_none_is(kind):
    bounds = {"max_fpr": 0.5 if kind.uses_max_fpr else None, "min_tpr": 0.5 if kind.uses_min_tpr else None}
    for name in (kind.name, *kind.aliases):
        criterion = Criterion(name, **bounds, k=1 if kind.uses_k else None)
        assert criterion.name == kind.name
        target = torch.arange(30) % (3 if kind.multiclass else 2)
        scores = torch.nn.functional.one_hot(target).float() if kind.multiclass else target.float()
        assert float(criterion(scores, target)) == pytest.approx(1)
        assert float(criterion(-scores, target)) < 0.6


def test_a_name_stands_once():
    with pytest.raises(ValueError, match="'sam' is declared twice"):
        by_name([declared(OptimizerChoice)["sam"]] * 2)


def test_a_list_is_shorter_than_all_classes_and_half_of_an_odd_number_is_rounded_down():
    assert [list_length(None, classes) for classes in (3, 6, 7, 1000)] == [2, 5, 5, 5]
    assert rarer_half([9, 1, 5, 3, 7]) == [1, 3]
