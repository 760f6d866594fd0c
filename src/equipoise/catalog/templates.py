"""The texts of the skeletons; `$room`, `$name`, `$Class` and so on are filled in by `skeleton`."""

ROOM = '''"""Write me: what the methods of this room have in common.

Names are loaded when first touched; the list of them is `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
'''

MODULE = '''"""$problem.

    L(s, y) = write me: the formula

$source
"""

from __future__ import annotations

from torch import nn

from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Positive, Scalar, Scores


@checked
def $function(scores: Scores, target: BinaryTarget, *, margin: Positive = 1.0) -> Scalar:
    """Write me: the loss as a noun phrase.

    Args:
        scores: (n,) raw scores, higher means more positive.
        target: (n,) 1 for positive, 0 for negative.
        margin: write me, with its unit and the paper's symbol.

    Returns:
        The loss; zero, still attached to the graph, when one class is absent (warned once).

    Raises:
        ValueError: if a score is NaN or infinite, a target neither 0 nor 1, or `margin` not positive.
    """
    raise NotImplementedError("write me: $function")


class $Class(nn.Module):
    """`$function` as a module.

    Args:
        margin: as in `$function`.
    """

    @checked
    def __init__(self, margin: Positive = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, scores: Scores, target: BinaryTarget) -> Scalar:
        """The loss of scores (n,) by targets (n,)."""
        return $function(scores, target, margin=self.margin)
'''

TEST = '''"""The loss of `$slug` is what its definition says."""

import pytest
import torch

from equipoise.$room import $Class, $function


def _by_definition(scores, target, margin):
    pytest.fail("write me: the definition as loops over samples")


def test_the_loss_is_that_of_the_definition():
    scores = torch.tensor([2.0, 0.5, 0.0, -1.0], dtype=torch.float64)
    target = torch.tensor([1, 0, 1, 0])
    loss = $function(scores, target, margin=0.5)
    torch.testing.assert_close(loss, _by_definition(scores, target, 0.5))


def test_the_module_remembers_its_settings():
    scores, target = torch.tensor([2.0, 0.5, 0.0]), torch.tensor([1, 0, 0])
    wanted = $function(scores, target, margin=0.5)
    assert $Class(margin=0.5)(scores, target) == wanted
'''

GOLDEN = '''"""Ops of `$slug`."""

from __future__ import annotations

from equipoise.$room import $function
from golden_ops import Ops, renamed

ops = Ops()


@ops("$slug", "$function")
def loss(inputs, params):
    options = renamed(params, {"margin": "margin"})
    return {"value": $function(inputs["scores"].double(), inputs["target"], **options)}
'''

GOLDEN_CASE = """{
 "cases": [
  {
   "op": "$function",
   "params": {"margin": 1.0},
   "inputs": {"scores": [2.0, 0.5, 0.0], "target": [1, 0, 0]},
   "expected": {"value": "write me"},
   "rtol": 1e-09,
   "how": "write me: brute force from the definition"
  }
 ]
}
"""

CLAIM = '''"""Write me: what `$slug` is said to gain, in one line."""

from __future__ import annotations

from equipoise.claims.model import Claim, Experiment, Gain


def _experiment(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    raise NotImplementedError("write me: every arm on the same data of the seed")


CLAIM = Claim(
    slug="$slug",
    statement="Write me: the paper's statement, at the scale that runs here.",
    experiments=(
        Experiment(
            name="Write me",
            protocol="Write me: data, models, baselines and how they were tuned, so that a reader could repeat it.",
            run=_experiment,
            seeds=(0, 1, 2, 3, 4),
            quick_seeds=2,
            parts=(Gain("write me: it beats the baseline", "$slug", "baseline", "write me", 0.01),),
        ),
    ),
    caveats=(),
)
'''

CONTRACTS = '''"""The public names of `equipoise.$room`."""

from contracts.model import Function, Loss, binary, one_class

ENTRIES = (
)

OTHERS: dict[str, str] = {}
'''

CONTRACT = """    Loss(
        "equipoise.$room.$Class",
        {"margin": 1.0},
        binary,
        functional="equipoise.$room.$function",
        undefined=one_class,
    ),
    Function("equipoise.$room.$function", {"margin": 1.0}, binary),
"""

DOCS = """
## $slug

Write me: when `$Class` is the right choice, with an example that runs.
"""

FILES = {
    "src/equipoise/$room/$folder$name.py": MODULE,
    "tests/$room/${folder}test_$name.py": TEST,
    "tests/golden_ops/$name.py": GOLDEN,
    "tests/golden_cases/$slug.json": GOLDEN_CASE,
}
"""Path → text of the new files, beside the claim."""
