"""What a checked signature refuses, in which words, and what it makes uniform."""

import math
import pickle
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from jaxtyping import Bool, Float, Int, Integer, Num, UInt8
from torch import Tensor, nn

from equipoise.core import signature
from equipoise.core.signature import checked
from equipoise.core.types import (
    BinaryTarget,
    ClassIndex,
    ClassScores,
    ClassTarget,
    Count,
    Fraction,
    MayBeEmpty,
    MayBeInfinite,
    MayBeNaN,
    MultilabelTarget,
    NonNegative,
    OpenTarget,
    Positive,
    ProperFraction,
    Range,
    RankedScores,
    SampleWeight,
    Scores,
    Values,
    Whole,
)

pytestmark = pytest.mark.usefixtures("plain_inputs")

SCORES, TARGET = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1, 0, 1])


def taking(hint, *more):
    """A checked function of one argument x of this annotation, and of y, z … of more; it gives them back."""
    names = "xyz"[: 1 + len(more)]
    scope = {f"T{k}": each for k, each in enumerate((hint, *more))}
    arguments = ", ".join(f"{name}: T{k}" for k, name in enumerate(names))
    exec(f"def give({arguments}): return {names[0] if not more else '(' + ', '.join(names) + ')'}", scope)
    return checked(scope["give"])


def refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("hint", "value", "message"),
    [
        (Scores, [0.5], r"^x must be a torch.Tensor, got list; convert it with torch.as_tensor\(x\)$"),
        (Scores, np.ones(2), r"got ndarray; convert it with torch.as_tensor\(x\)$"),
        (Scores, None, r"^x must be a torch.Tensor, got NoneType$"),
        (Scores, TARGET, r"^x must be floating point, got torch.int64; convert it with x.float\(\)$"),
        (Scores, SCORES[:, None], r"^x must have shape \(n,\), got \(3, 1\); squeeze its last dimension$"),
        (Scores, SCORES[0], r"must have shape \(n,\), got \(\)$"),
        (Scores, SCORES[:0], r"^x is empty, its shape is \(0,\); at least one sample is needed$"),
        (ClassScores, torch.zeros(3, 0), r"^x is empty"),
        (Scores, torch.tensor([0, math.nan, math.inf]), r"holds 2 NaN or infinite values, the first at index 1; drop"),
        (Float[Tensor, "a b"], torch.tensor([[0.0, math.nan]]), r"value, the first at index \(0, 1\);"),
        (Float[Tensor, ""], torch.tensor(math.nan), r"^x holds 1 NaN or infinite value; drop"),
        (RankedScores, torch.tensor([math.inf, math.nan, -math.inf]), r"^x holds 1 NaN, the first at index 1;"),
        (SampleWeight, torch.tensor([1.0, -2.0]), r"^x must be at least 0, got -2$"),
        (SampleWeight, torch.tensor([1.0, math.nan]), r"^x holds 1 NaN"),
        (Annotated[Scores, Range(0, 1)], torch.tensor([0.5, 3.0]), r"^x must lie in \[0, 1\], got 3$"),
        (BinaryTarget, torch.tensor([0, 1, 2]), r"^x holds the value 2, wanted 0 \(negative\) or 1 \(positive\)$"),
        (BinaryTarget, torch.tensor([-1, 1]), r"^x holds the value -1"),
        (BinaryTarget, SCORES, r"^x must hold integers or booleans, got torch.float32; convert it with x.long\(\)$"),
        (ClassTarget, torch.tensor([0, -1]), r"^x holds the value -1, wanted class indices from 0$"),
        (OpenTarget, torch.tensor([-1, -2]), r"−1 marking samples of no class, from -1$"),
        (
            MultilabelTarget,
            torch.tensor([[0.0, 0.5]]),
            r"holds the value 0.5, wanted 0 \(absent\) or 1 \(present\)$",
        ),
        (Annotated[Int[Tensor, " n"], Values(((-1, "no"), (1, "yes")))], TARGET, r"holds the value 0, wanted -1"),
        (Bool[Tensor, " n"], TARGET, r"^x must hold booleans, got torch.int64; convert it with x.bool\(\)$"),
        (Num[Tensor, " n"], TARGET.bool(), r"^x must hold numbers, got torch.bool"),
        (Float[Tensor, "n n"], torch.zeros(2, 3), r"must have shape \(n, n\), got \(2, 3\)$"),
        (Float[Tensor, "n 2"], torch.zeros(2, 3), r"must have shape \(n, 2\), got"),
        (Float[Tensor, "n *rest 2"], torch.zeros(2), r"must have shape \(n, \*rest, 2\), got \(2,\)$"),
        (Positive, math.nan, r"^x=nan must be a finite number$"),
        (Positive, math.inf, r"^x=inf must be a finite number$"),
        (Positive, 0, r"^x=0 must be a number greater than 0$"),
        (Positive, "1", r"^x='1' must be a number, got str$"),
        (Positive, True, r"^x=True must be a number"),
        (Positive, None, r"^x=None must be a number"),
        (NonNegative, -1e-9, r"^x=-1e-09 must be a number at least 0$"),
        (Fraction, 5, r"^x=5 must lie in \(0, 1\]; did you mean 0.05\?$"),
        (ProperFraction, 1.0, r"^x=1.0 must lie in \[0, 1\)$"),
        (Count, 0, r"^x=0 must be a whole number at least 1$"),
        (Count, 1.5, r"^x=1.5 must be a whole number$"),
        (Count, True, r"^x=True must be a whole number$"),
        (Whole, "3", r"^x='3' must be a whole number$"),
        (bool, 1, r"^x=1 must be True or False$"),
        (str, 1, r"^x=1 must be a string, got int$"),
        (Literal["a", "b"], "c", r"^x='c' is not known; choose one of 'a', 'b'$"),
        (Literal["a", "b"], ["a"], r"is not known"),
        (Literal[1, 2], True, r"^x=True is not known; choose one of 1, 2$"),
        (Sequence[Count], [1, 0], r"^x\[1\]=0 must be a whole number at least 1$"),
        (Sequence[int], "12", r"^x must be a list or tuple, got str$"),
        (Sequence[int], 3, r"^x must be a list or tuple, got int$"),
        (tuple[float, ...], (1.0, math.nan), r"^x\[1\]=nan must be a finite number$"),
        (nn.Module, len, r"^x must be a Module, got builtin_function_or_method$"),
        (torch.Generator | None, 3, r"^x must be a Generator, got int$"),
        (Mapping[str, int], [1], r"^x must be a Mapping, got list$"),
        (Callable[[int], int], 3, r"^x must be a Callable, got int$"),
        (Positive | None, -1, r"^x=-1 must be a number greater than 0$"),
        (Annotated[float | None, Range(0)], -1, r"^x=-1 must be a number at least 0$"),
        (
            Literal["a"] | Positive,
            -1,
            r"^x=-1 is not known; choose one of 'a'; or x=-1 must be a number greater",
        ),
        (BinaryTarget | None, [1], r"^x must be a torch.Tensor, got list"),
        (str | Path, 3, r"must be a string, got int; or x must be a Path, got int$"),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence(hint, value, message):
    refused(lambda: taking(hint)(value), message)


@pytest.mark.parametrize(
    ("hint", "value"),
    [
        (Annotated[Scores, MayBeEmpty()], torch.zeros(0)),
        (RankedScores, torch.tensor([math.inf, -math.inf])),
        (Annotated[Scores, MayBeNaN()], torch.tensor([math.nan, math.inf])),
        (Annotated[float, MayBeInfinite()], math.inf),
        (Scores, torch.tensor([3e38, 3e38])),
        (BinaryTarget, torch.tensor([True, False])),
        (Annotated[Int[Tensor, " n"], Values(((-1, "no"), (1, "yes")))], torch.tensor([1, -1])),
        (Float[Tensor, "n *rest 2"], torch.zeros(3, 2)),
        (Float[Tensor, "n *rest 2"], torch.zeros(3, 5, 6, 2)),
        (Float[Tensor, "..."], torch.tensor(1.0)),
        (Float[Tensor, "_ _"], torch.zeros(2, 3)),
        (UInt8[Tensor, "3"], torch.zeros(3, dtype=torch.uint8)),
        (Literal["a"] | None, None),
        (Literal["a"] | Positive, 2.0),
        (Positive | Tensor, torch.zeros(3)),
        (torch.Generator | None, None),
        (Any, object()),
        (Path | str, "file"),
    ],
)
def test_what_is_right_passes_as_it_is(hint, value):
    assert taking(hint)(value) is value


def test_a_name_means_one_size_in_all_arguments():
    give = taking(Scores, BinaryTarget, SampleWeight | None)
    refused(lambda: give(SCORES, TARGET[:2], None), r"^y must have shape \(n,\) with n = 3 as in x, got \(2,\)$")
    refused(lambda: give(z=torch.ones(2), y=TARGET, x=SCORES), r"^z must have shape \(n,\) with n = 3 as in x")
    both = taking(Float[Tensor, "k *shape"], Float[Tensor, "*shape"])
    both(torch.zeros(2, 3, 4), torch.zeros(3, 4))
    refused(lambda: both(torch.zeros(2, 3, 4), torch.zeros(4, 3)), r"^y must have shape .* \(3, 4\) as in x")
    with pytest.raises(TypeError, match="y"):
        give(SCORES)


def test_of_a_union_the_form_that_fits_binds_its_dimensions():
    give = taking(Float[Tensor, " n"] | Float[Tensor, "n c"], Integer[Tensor, " c"])
    give(torch.zeros(4), torch.zeros(7, dtype=torch.int32))
    refused(lambda: give(torch.zeros(4, 2), torch.zeros(7, dtype=torch.int32)), "c = 2 as in x")
    refused(lambda: give(torch.zeros(1, 4, 2), TARGET), r"^x must have shape \(n,\) or \(n, c\), got \(1, 4, 2\)$")


def test_scores_say_how_many_classes_there_are_wherever_they_stand():
    message = r"^{} holds the value 2, wanted class indices from 0 to 1 \({} has 2 classes\)$"
    target = torch.tensor([0, 2])
    refused(lambda: taking(ClassScores, ClassTarget)(torch.zeros(2, 2), target), message.format("y", "x"))
    refused(lambda: taking(ClassTarget, ClassScores)(target, torch.zeros(2, 2)), message.format("x", "y"))
    refused(lambda: taking(ClassScores, ClassTarget)(torch.zeros(2, 1), 0 * target), "^x must have at least 2 classes")
    free = taking(Annotated[Integer[Tensor, " n"], ClassIndex(None)], ClassScores)
    assert free(target, torch.zeros(2, 2))[0].equal(target)


@pytest.mark.parametrize(
    ("hint", "value", "wanted"),
    [
        (Positive, np.float32(0.5), 0.5),
        (Positive, np.int16(3), 3),
        (Positive, torch.tensor(2.0), 2.0),
        (Count, np.uint8(3), 3),
        (Count, torch.tensor(3), 3),
        (bool, np.bool_(True), True),
        (Literal[1, 2], np.int64(2), 2),
        (Literal["a"], np.str_("a"), "a"),
        (Sequence[float], np.array([1.0, 2.0]), (1.0, 2.0)),
        (Sequence[int], [1, np.int64(2)], (1, 2)),
        (Sequence[int], range(2), (0, 1)),
        (tuple[int, ...] | None, torch.tensor([4, 5]), (4, 5)),
    ],
)
def test_settings_become_plain_python(hint, value, wanted):
    found = taking(hint)(value)
    assert found == wanted
    assert type(found) is type(wanted)
    assert not isinstance(found, tuple) or [type(each) for each in found] == [type(each) for each in wanted]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.bool])
def test_class_indices_become_int64(dtype):
    assert taking(ClassTarget)(TARGET.to(dtype)).equal(TARGET)
    assert taking(BinaryTarget)(TARGET.to(dtype)).dtype is dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_taken_in_float32_and_gradients_go_back(dtype):
    x = torch.full((3,), 5e4, dtype=dtype, requires_grad=True)  # the sum is beyond float16
    y = taking(Scores)(x)
    assert y.dtype is torch.float32
    (2 * y).sum().backward()
    assert x.grad.dtype is dtype
    assert x.grad.tolist() == [2, 2, 2]
    assert taking(Scores)(SCORES.double()).dtype is torch.float64


class Scaled(nn.Module):
    @checked
    def __init__(self, by: Positive = 1.0, *, kind: Literal["a", "b"] = "a") -> None:
        super().__init__()
        self.by, self.kind = by, kind

    @checked
    def forward(self, scores: Scores, target: BinaryTarget, weight: SampleWeight | None = None) -> Float[Tensor, ""]:
        losses = nn.functional.softplus(-self.by * (2.0 * target - 1) * scores)
        return losses.mean() if weight is None else (weight * losses).sum()

    @classmethod
    @checked
    def doubled(cls, by: Positive) -> "Scaled":
        return cls(2 * by)


@checked
@dataclass(frozen=True)
class Setting:
    share: Fraction
    kind: Literal["a", "b"] = "a"
    later: "Setting | None" = None


@checked
def before_its_time(setting: "Later") -> "Later":
    return setting


class Later:
    pass


def test_methods_dataclasses_and_names_defined_later_are_checked():
    refused(lambda: Scaled(-1), r"^by=-1")
    refused(lambda: Scaled(kind="c"), r"^kind='c'")
    refused(lambda: Scaled.doubled(0), r"^by=0")
    assert Scaled.doubled(np.float64(2)).by == 4.0
    refused(lambda: Scaled()(SCORES, TARGET.float()), r"^target must hold integers or booleans")
    assert Setting(np.float64(0.5)).share == 0.5
    assert Setting(1, later=Setting(1)).later == Setting(1)
    refused(lambda: Setting(2), r"^share=2 must lie in \(0, 1\]")
    refused(lambda: Setting(1, later=3), r"^later must be a Setting, got int$")
    refused(lambda: before_its_time(3), r"^setting must be a Later, got int$")
    assert pickle.loads(pickle.dumps(Setting(1))) == Setting(1)
    assert isinstance(before_its_time(Later()), Later)


def test_a_checked_loss_compiles_to_one_graph():
    loss = Scaled(2.0)
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for scores, target in (
        (SCORES, TARGET),
        (SCORES.half(), TARGET.to(torch.uint8)),
        (torch.randn(7), torch.ones(7).long()),
    ):
        torch.testing.assert_close(compiled(scores, target), loss(scores, target))

    @checked
    def picked(target: ClassTarget, logits: ClassScores) -> Float[Tensor, ""]:
        return -logits.log_softmax(1)[torch.arange(len(logits)), target].mean()

    logits, target = torch.randn(3, 4), TARGET.to(torch.uint8)
    compiled = torch.compile(picked, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(target, logits), picked(target, logits))


@pytest.fixture
def looks(monkeypatch):
    """The names of the arguments whose values are looked at, in order."""
    seen, look = [], signature._look
    monkeypatch.setattr(signature, "_look", lambda name, *rest: (seen.append(name), look(name, *rest)))
    return seen


def test_values_are_looked_at_once_however_deep_the_calls(looks):
    @checked
    def inner(ranked: RankedScores, target: BinaryTarget):
        return ranked

    @checked
    def outer(scores: Scores, target: BinaryTarget):
        inner(scores, target)
        inner(scores, ~target)
        return inner(2 * scores, target)

    outer(SCORES, TARGET.bool())
    assert looks == ["scores", "ranked"]
    outer(SCORES, TARGET.bool())
    assert looks == 2 * ["scores", "ranked"]
    assert not signature._looked.at


def test_what_changed_or_is_held_to_more_is_looked_at_again(looks):
    @checked
    def inner(scores: Scores, weight: SampleWeight | None = None):
        return scores

    @checked
    def outer(ranked: RankedScores, spoil: Callable[[Tensor], Any]):
        spoil(ranked)
        return inner(ranked)

    for spoil in (lambda x: x.fill_(math.nan), lambda x: x[1:].div_(0)):
        refused(lambda spoil=spoil: outer(SCORES.clone(), spoil), "^scores holds")
    refused(lambda: outer(torch.tensor([math.inf]), bool), "^scores holds 1 NaN or infinite")
    assert not signature._looked.at
    refused(lambda: taking(Scores, SampleWeight)(-torch.ones(2), -torch.ones(2)), "^y must be at least 0")
    with torch.inference_mode():  # such tensors count no versions
        refused(lambda: outer(torch.ones(2), lambda x: x.fill_(math.nan)), "^scores holds")


def test_a_long_call_keeps_no_tensor_of_the_calls_it_makes():
    inner = taking(Scores)

    @checked
    def training(steps: Count):
        for _ in range(steps):
            inner(torch.ones(3))
        return len(signature._looked.at)

    assert training(5) == 0


def test_threads_do_not_share_what_they_have_looked_at(looks):
    outer = taking(Scores, Callable[[Tensor], Any])

    @checked
    def holding(scores: Scores, call: Callable[[], Any]):
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()

    holding(SCORES, lambda: outer(SCORES, len))
    assert looks == ["scores", "x"]


def test_a_reversed_array_is_copied_by_the_conversion_that_is_named(plain_inputs):
    @checked
    def total(x: Float[Tensor, " n"]) -> float:
        return float(x.sum())

    x = np.arange(3.0)[::-1]
    with pytest.raises(ValueError, match="convert it with") as refused:
        total(x)
    assert total(eval(str(refused.value).partition("convert it with ")[2])) == 3.0
