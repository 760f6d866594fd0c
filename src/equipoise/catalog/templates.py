"""The texts of the skeletons; `$room`, `$name`, `$Class` and so on are filled in by `skeleton`."""

ROOM = '''"""Write me: what `$slug` and the other methods of this room have in common.

Names are loaded when first touched; the list of them is `__init__.pyi`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
'''

REGISTRY = '''"""What this room declares, to be chosen by name."""

from __future__ import annotations

from equipoise.core.registry import Declaration

DECLARED: tuple[Declaration, ...] = ()
'''

MODULE = '''"""$problem

    L(s, y) = write me: the formula

$source
"""

from __future__ import annotations

from torch import nn

from equipoise.core.signature import checked
from equipoise.core.types import BinaryTarget, Positive, Scalar, Scores


@checked
def $function(scores: Scores, target: BinaryTarget, *, strength: Positive = 1.0) -> Scalar:
    """Write me: the loss as a noun phrase.

    Args:
        scores: (n,) raw scores, higher means more positive.
        target: (n,) 1 for positive, 0 for negative.
        strength: write me, with its unit and the paper's symbol.

    Returns:
        The loss; write me: zero, still attached to the graph, on which batches (warned once).

    >>> $function(torch.tensor([2.0, 0.5, 0.0]), torch.tensor([1, 0, 0]))
    tensor(write me)
    """
    raise NotImplementedError("write me: $function")


class $Class(nn.Module):
    """`$function` as a module.

    Args:
        strength: as in `$function`.
    """

    @checked
    def __init__(self, strength: Positive = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, scores: Scores, target: BinaryTarget) -> Scalar:
        """The loss of scores (n,) by targets (n,)."""
        return $function(scores, target, strength=self.strength)
'''

TEST = '''"""The loss of `$slug` is what its definition says."""

import pytest
import torch

from equipoise.$room import $function

BATCHES = {
    "distinct scores": ([2.0, 0.5, 0.0, -1.0], [1, 0, 1, 0]),
    "ties": ([1.0, 1.0, 0.0, 0.0], [1, 0, 1, 0]),
    "one positive": ([0.5, 2.0, 0.0], [1, 0, 0]),
}


def _by_definition(scores, target, strength):
    pytest.fail("write me: the definition, by brute force over lists of numbers")


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("batch", BATCHES)
def test_the_loss_is_that_of_the_definition(batch, strength):
    scores, target = BATCHES[batch]
    loss = $function(torch.tensor(scores), torch.tensor(target), strength=strength)
    assert loss.item() == pytest.approx(_by_definition(scores, target, strength), rel=1e-5)


def test_gradients_are_those_of_finite_differences():
    scores, target = map(torch.tensor, BATCHES["distinct scores"])
    leaf = scores.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: $function(s, target, strength=0.5), leaf)


def test_what_the_paper_proves_of_the_loss():
    pytest.fail("write me: a property that a wrong formula would not have")
'''

GOLDEN = '''"""Ops of `$slug`."""

from __future__ import annotations

from equipoise.$room import $function
from golden_ops import Ops, renamed

ops = Ops()


@ops("$slug", "$function")
def loss(inputs, params):
    options = renamed(params, {"strength": "strength"})
    return {"value": $function(inputs["scores"].double(), inputs["target"], **options)}
'''

GOLDEN_CASE = """{
 "cases": [
  {
   "op": "$function",
   "params": {"strength": 1.0},
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
            parts=(Gain("write me: it beats the baseline", "$slug", "baseline", "write me", 0.01),),
        ),
    ),
    caveats=(),
)
'''

CONTRACTS = '''"""The public names of `equipoise.$room`."""

from contracts.model import Function, Loss, binary, one_class

ROOM = "equipoise.$room"

ENTRIES = (
)

OTHERS: dict[str, str] = {}
'''

CONTRACT = """    Loss(
        f"{ROOM}.$Class",
        {"strength": 1.0},
        binary,
        functional=f"{ROOM}.$function",
        undefined=one_class,
    ),
    Function(f"{ROOM}.$function", {"strength": 1.0}, binary),
"""

DOCS = """
## `$Class`

Write me: when `$Class` is the right choice, with an example that runs.
"""

FILES = {
    "src/equipoise/$room/$folder$name.py": MODULE,
    "tests/$room/${folder}test_$name.py": TEST,
    "tests/golden_ops/$claim.py": GOLDEN,
    "tests/golden_cases/$slug.json": GOLDEN_CASE,
    "src/equipoise/claims/$room/$claim.py": CLAIM,
}
"""Path → text of the new files of a method."""

ROOM_FILES = {
    "src/equipoise/$room/__init__.py": ROOM,
    "src/equipoise/$room/registry.py": REGISTRY,
    "src/equipoise/claims/$room/__init__.py": '"""The claims of `$room`, one module per paper."""\n',
}
"""Path → text of the new files of a room."""

NEXT = """
Next, as CONTRIBUTING.md says; `grep -rin "write me" src tests docs --exclude-dir=catalog` shows what is left:
- golden cases, function, tests and contract entry, until these pass:
    python tests/golden.py tests/golden_cases/$slug.json
    python -m pytest tests/$room/${folder}test_$name.py src/equipoise/$room/$folder$name.py
    python -m pytest tests/contracts tests/test_rooms.py -k "$Class or $function or rooms or entry"
- the objective of `fit`, if there should be one, in src/equipoise/$room/registry.py
- the section of docs/$room.md
- the claim, which adds to docs/claims and docs/claims.md:
    equipoise reproduce $slug --output docs
    equipoise reproduce $slug --output docs --seeds 100-109
- in src/equipoise/catalog/papers.toml: status = "working", and the source of the formulas
- a line in CHANGELOG.md, and the lists:
    python -m equipoise.catalog README.md
    python -m equipoise.catalog reference docs/reference
"""
