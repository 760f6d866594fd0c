"""Training on Lightning: objectives, modules, checkpoints, resume."""

from equipoise.training.adversarial import AdversarialScoringModule
from equipoise.training.fit import HeldOut, Plan, Run, fit_module
from equipoise.training.module import ScoringModule
from equipoise.training.objectives import OBJECTIVES, make_objective

__all__ = [
    "OBJECTIVES",
    "AdversarialScoringModule",
    "HeldOut",
    "Plan",
    "Run",
    "ScoringModule",
    "fit_module",
    "make_objective",
]
