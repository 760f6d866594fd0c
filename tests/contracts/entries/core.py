"""The public names of the packages of `equipoise.core` that export any."""

import torch

from contracts.model import Function, Solver, binary

PACKAGES = ["core.pairs", "core.curves"]


def _sides(generator, n):
    """Scores of positives and of more negatives, with weights."""
    pos, neg = torch.randn(n, generator=generator), torch.randn(n + 3, generator=generator)
    weights = {"pos_weight": torch.rand(n, generator=generator), "neg_weight": torch.rand(n + 3, generator=generator)}
    return {"pos": pos, "neg": neg, **weights}


def _columns(generator, n):
    """Three problems with weights of either class."""
    positive = (torch.arange(n)[:, None] + torch.arange(3)) % 3 == 0
    weight = torch.rand(n, 3, generator=generator)
    scores = torch.randn(n, 3, generator=generator)
    return {"scores": scores, "pos_weight": weight * positive, "neg_weight": weight * ~positive}


def _two_models(generator, n):
    """Scores of two models on the same samples."""
    batch = binary(generator, n)
    scores = batch.pop("scores")
    return {"first": scores, "second": scores + torch.randn(n, generator=generator), **batch}


_BILEVEL = "equipoise.core.solvers.bilevel"
_SOLVERS = "equipoise.core.solvers.saddle_solvers"
_ONE_PASS = dict.fromkeys(
    ("gradients_that_a_closure_adds_to_are_refused", "accumulation_by_lightning_is_refused"),
    "takes one pass, and adds up gradients as PyTorch's own optimizers do",
) | {
    "half_precision_around_the_step_is_that_inside_its_closure": (
        "takes one pass, and weights that autocast has cast are kept from step to step as under PyTorch's own"
    )
}

ENTRIES = (
    Function(f"{_BILEVEL}.MetaWrapper", {"model": torch.nn.Linear(2, 1), "inner_params": ["weight"]}),
    Function(
        f"{_BILEVEL}.one_step_hypergradient",
        {
            "inner_loss": lambda theta, phi: (theta * phi).square().sum(),
            "outer_loss": lambda theta, phi: (theta - phi).square().sum(),
            "inner_lr": 0.1,
        },
        lambda generator, n: dict(zip(("theta", "phi"), torch.randn(2, n, generator=generator), strict=True)),
        exempt={"bad_arguments_are_refused_by_name": "parameters of any shape are good; its test gives it bad ones"},
    ),
    Solver(f"{_SOLVERS}.AcceleratedDescentAscent", {"lr": 0.5, "k": 1.0, "m": 8.0, "c1": 3.0, "c2": 2.0}),
    Solver(f"{_SOLVERS}.ProximalDescentAscent", {"lr": 0.1, "momentum": 0.1, "clip": 0.5}, exempt=_ONE_PASS, passes=1),
    Function("equipoise.core.pairs.pairwise_loss", {"margin": 1.0}, _sides),
    Function("equipoise.core.pairs.pairwise_derivatives", {"margin": 1.0}, _sides),
    Function("equipoise.core.pairs.columnwise_pairwise_loss", {"margin": 1.0}, _columns),
    Function("equipoise.core.curves.CurveSketch", {"max_bytes": 1 << 16}),
    Function("equipoise.core.curves.delong_interval", {"confidence": 0.9}, binary),
    Function("equipoise.core.curves.delong_difference", {"confidence": 0.9}, _two_models),
)

OTHERS = {
    "equipoise.core.pairs.PairwiseDerivatives": "a result that the library makes",
    "equipoise.core.pairs.split_classes": "an inner step of losses that have checked their scores already",
    "equipoise.core.pairs.SURROGATES": "a table of surrogates that `resolve_surrogate` reads",
    "equipoise.core.pairs.Surrogate": "a record of a function and its two derivatives",
    "equipoise.core.pairs.resolve_surrogate": "takes a name or a function; its test gives it bad ones",
    "equipoise.core.curves.RocCurve": "a result; its test gives `from_scores` bad scores",
    "equipoise.core.curves.Bounds": "a result that the library makes",
}
