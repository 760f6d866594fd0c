"""How one-sided generated pictures are, per prompt and on average.

    bias = 2 / (A (A − 1)) Σ_{k<l} |f_k − f_l|          f_k: share of the pictures of a prompt that show value k

0 where all values are as frequent; for two values 1 where only one occurs, for A values 2 / A. The text side has the
same measure of the shares that CLIP gives values by their distance to the text, softmax(−κ D); a generator whose
pictures are more one-sided than that amplifies the bias of its text encoder.

Source: LightFair, NeurIPS 2025, after the measure that earlier work on fair diffusion uses. Reconstructed: no code of
the paper is public; that the text side and the amplification are measured so is inferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Annotated, Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from equipoise.core.metrics import WholeMetric
from equipoise.core.signature import checked
from equipoise.core.types import ClassIndex, Count, NumClasses, Positive, Range
from equipoise.core.validate import warn_once
from equipoise.generative.fairness.balance import Distance, attribute_distances, check_attributes

Counts: TypeAlias = Annotated[Float[Tensor, "prompts attributes"] | Integer[Tensor, "prompts attributes"], Range(0)]
ShownAttribute: TypeAlias = Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], ClassIndex(None, low=-1)]
PromptIndex: TypeAlias = Annotated[Integer[Tensor, " n"] | Bool[Tensor, " n"], ClassIndex(None)]


class AttributeBiasValues(NamedTuple):
    """What `attribute_bias` gives.

    Attributes:
        per_prompt: (P,) float64, NaN where no picture was classified.
        mean: scalar float64, over the other prompts.
    """

    per_prompt: Float[Tensor, " prompts"]
    mean: Float[Tensor, ""]


@checked
def attribute_bias(counts: Counts) -> AttributeBiasValues:
    """Mean absolute difference between the shares of attribute values.

    Args:
        counts: (P, A) how many pictures of a prompt show a value, or weights, or shares.

    Returns:
        The bias of every prompt, and its mean.

    Raises:
        ValueError: on fewer than two values or a negative count.

    Warns:
        UserWarning: once, where a prompt has no classified picture; its bias is NaN and the mean leaves it out.

    >>> attribute_bias(torch.tensor([[80, 20], [50, 50]])).per_prompt
    tensor([0.6000, 0.0000], dtype=torch.float64)
    """
    values = counts.shape[1]
    check_attributes("counts", values)
    total = counts.double().sum(1, keepdim=True)
    shares = counts.double() / total
    # Σ_{k<l} |f_k − f_l| from the sorted shares: the k-th is above k of them and below A − 1 − k.
    place = torch.arange(values, dtype=torch.float64, device=counts.device)
    sums = (shares.sort(1).values * (2 * place + 1 - values)).sum(1)
    empty = (total == 0)[:, 0]
    if not torch.compiler.is_compiling() and bool(empty.any()):
        warn_once(f"{int(empty.sum())} of {len(empty)} prompts have no classified picture; their bias is NaN")
    return AttributeBiasValues(2 / (values * (values - 1)) * sums, _mean(2 / (values * (values - 1)) * sums))


@checked
def text_skew(
    text: Float[Tensor, "n d"],
    centers: Float[Tensor, "n attributes d"],
    logit_scale: Positive = 100.0,
    distance: Distance = "cosine",
) -> Float[Tensor, "n attributes"]:
    """The shares that a text encoder gives attribute values by itself, softmax(−κ D).

    Args:
        text: (N, D) embeddings of neutral prompts.
        centers: (N, A, D) centres of the pictures of each value.
        logit_scale: κ, the factor on the cosines of the CLIP model.
        distance: see `attribute_distances`.

    Returns:
        (N, A), rows of sum 1.

    Raises:
        ValueError: as `attribute_distances`.

    >>> text_skew(torch.tensor([[1.0, 1.0]]), torch.eye(2)[None])
    tensor([[0.5000, 0.5000]])
    """
    return (-logit_scale * attribute_distances(text, centers, distance)).softmax(1)


@checked
def bias_amplification(
    generated: Counts, text: Annotated[Float[Tensor, "prompts attributes"], Range(0)]
) -> AttributeBiasValues:
    """How much more one-sided the pictures are than the text side: the difference of their biases.

    Args:
        generated: (P, A) counts of generated pictures.
        text: (P, A) shares of the text side, see `text_skew`, or those of the training data.

    Returns:
        The difference for every prompt, above 0 where the generator amplifies, and its mean.

    Raises:
        ValueError: as `attribute_bias`.

    >>> bias_amplification(torch.tensor([[90, 10]]), torch.tensor([[0.7, 0.3]])).mean
    tensor(0.4000, dtype=torch.float64)
    """
    change = attribute_bias(generated).per_prompt - attribute_bias(text).per_prompt
    return AttributeBiasValues(change, _mean(change))


class AttributeBias(WholeMetric):
    """`attribute_bias` of classified pictures, over batches and processes.

    Args:
        num_prompts: P.
        num_attributes: A, at least 2.
        kwargs: of `torchmetrics.Metric`.

    >>> metric = AttributeBias(num_prompts=1, num_attributes=2)
    >>> metric.update(torch.tensor([0, 0, 1, 0]), torch.zeros(4, dtype=torch.long))
    >>> metric.compute()["mean"]
    tensor(0.5000, dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    counts: Tensor

    @checked
    def __init__(self, num_prompts: Count, num_attributes: NumClasses, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_prompts, self.num_attributes = num_prompts, num_attributes
        self.add_state("counts", torch.zeros(num_prompts, num_attributes, dtype=torch.long), dist_reduce_fx="sum")

    @checked
    def update(self, attribute: ShownAttribute, prompt: PromptIndex) -> None:
        """Add pictures.

        Args:
            attribute: (n,) which value a picture shows, from 0; −1 where the classifier does not say.
            prompt: (n,) which prompt it was made for, from 0.

        Raises:
            ValueError: if an index is out of range.
        """
        known = check_places(attribute, prompt, self.num_prompts, self.num_attributes)
        place = prompt[known] * self.num_attributes + attribute[known]
        self.counts += torch.bincount(place, minlength=self.counts.numel()).view_as(self.counts)

    def compute(self) -> dict[str, Tensor]:
        """The bias "per_prompt", (P,) float64, and its "mean"; NaN where there is no classified picture."""
        return attribute_bias(self.counts)._asdict()

    def nothing(self) -> dict[str, Tensor]:
        """NaN for every prompt and for the mean."""
        nan = torch.full((self.num_prompts,), torch.nan, dtype=torch.float64, device=self.device)
        return {"per_prompt": nan, "mean": nan[0]}


def check_places(attribute: Tensor, prompt: Tensor, num_prompts: int, num_attributes: int) -> Tensor:
    """Which pictures are classified.

    Raises:
        ValueError: if an attribute is not in −1..A − 1 or a prompt not in 0..P − 1.
    """
    for name, index, low, high in (("attribute", attribute, -1, num_attributes), ("prompt", prompt, 0, num_prompts)):
        least, most = (int(each) for each in index.aminmax())
        if least < low or most >= high:
            wrong = least if least < low else most
            raise ValueError(f"{name} holds the value {wrong}, wanted indices from {low} to {high - 1}")
    return attribute >= 0


def intersect_attributes(attributes: Mapping[str, Sequence[str]]) -> list[tuple[str, ...]]:
    """Every combination of the values of several attributes, the first attribute slowest.

    Args:
        attributes: attribute → its values, such as {"age": ["young", "old"], "gender": ["female", "male"]}.

    Returns:
        One tuple of values for each combination, to be joined into a phrase: "young female".

    Raises:
        ValueError: if there is no attribute, one has fewer than two values, or a value twice.

    >>> intersect_attributes({"age": ["young", "old"], "gender": ["female", "male"]})[:2]
    [('young', 'female'), ('young', 'male')]
    """
    if not attributes:
        raise ValueError("attributes is empty; name at least one attribute and its values")
    for name, values in attributes.items():
        if isinstance(values, str):
            raise ValueError(f"attributes[{name!r}] must be a list of values, got the string {values!r}")
        check_attributes(f"attributes[{name!r}]", len(values))
        if len(set(values)) < len(values):
            raise ValueError(f"attributes[{name!r}]={list(values)} names a value twice")
    return list(product(*attributes.values()))


def _mean(values: Tensor) -> Tensor:
    """Over what is not NaN; NaN where nothing is left."""
    return values.nanmean()
