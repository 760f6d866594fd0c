"""The public names of `equipoise.ranking`."""

import torch
from torch.nn.functional import normalize

from contracts.model import Function, Loss, Measure, binary, multiclass, multilabel, one_class, renamed
from equipoise.ranking import PGDAttack
from equipoise.ranking.partial.instancewise_objective import InnerVariables
from equipoise.ranking.robust.adversarial_auc import loss_agnostic_terms

ROOM = "equipoise.ranking"
GRADIENTS = "float64_is_kept_and_gradients_are_those_of_the_value"
CONSTANT = "the true-positive rate is held constant in the backward pass, as published"
REGION = {"max_fpr": 0.4, "min_tpr": 0.3}
WEIGHTS = {"scheme": "exp", "gamma": 4.0, "detach_weights": False}
INNER = InnerVariables(0.7, 0.3, -0.2, -0.8, 0.9, 0.1, 0.2)
ATTACK = PGDAttack(eps=0.1, step=0.05, steps=2)
STARTED = {"nothing_is_rounded_to_float32_on_the_way_of_float64": "variables begin in the model's precision"}
SADDLE = {"a": 0.7, "b": 0.3, "alpha": -0.4}

classes = renamed(multiclass(), logits="scores")


def labels(generator, n):
    """Scores of five labels, each with both classes."""
    target = (torch.arange(n)[:, None] + torch.arange(5)) % 3 == 0
    return {"scores": torch.randn(n, 5, generator=generator), "target": target.long()}


def indexed(inputs):
    """The batch with the place of each sample in the training set."""
    return lambda generator, n: {**inputs(generator, n), "index": torch.arange(n)}


def one_kind(generator, n):
    """Class scores of samples of one class."""
    return {**classes(generator, n), "target": torch.ones(n, dtype=torch.long)}


def no_label(generator, n):
    """Logits of labels that no sample has."""
    return {**multilabel()(generator, n), "target": torch.zeros(n, 5, dtype=torch.long)}


def embeddings(generator, n):
    """Unit vectors of three classes."""
    return {"embeddings": normalize(torch.randn(n, 5, generator=generator)), "target": torch.arange(n) % 3}


def similarities(generator, n):
    """Cosines of samples of three classes, with what the loss remembers of each class."""
    x = embeddings(generator, n)
    spread = {"v": torch.rand(3, 6, generator=generator), "priors": torch.full((3,), 0.1)}
    return {"similarity": x["embeddings"] @ x["embeddings"].T, "target": x["target"], **spread}


def shares(generator, n):
    """Probabilities and binary targets."""
    batch = binary(generator, n)
    return {**batch, "scores": batch["scores"].sigmoid()}


def of_users(generator, n):
    """Scores and binary targets of three users."""
    return {**binary(generator, n), "user": torch.arange(n) // 3 % 3}


def of_one_class(generator, n):
    """The negatives of three users."""
    return {**of_users(generator, n), "target": torch.zeros(n, dtype=torch.long)}


def pictures(generator, n):
    """Images in [0, 1], both classes, and a scorer of them."""
    images = torch.rand(n, 8, 8, generator=generator)
    return {"images": images, "target": binary(generator, n)["target"], "model": lambda x: x.mean((1, 2))}


def attacked(generator, n):
    """Inputs in [0, 1], both classes, and a scorer of them."""
    inputs = torch.rand(n, 3, generator=generator)
    return {"inputs": inputs, "target": binary(generator, n)["target"], "model": lambda x: x.mean(1)}


def moved(generator, n):
    """Inputs that an adversary moves, at a price per sample."""
    start = {"multiplier": torch.rand(n, generator=generator), "start": torch.zeros(n, 3)}
    return {**attacked(generator, n), "objective": loss_agnostic_terms, **start}


def query(generator, n):
    """Similarities of one query to what is relevant and to the rest."""
    pos, neg = torch.rand(n // 2, generator=generator), torch.rand(n, generator=generator)
    return {"sim_pos": pos, "sim_neg": neg, "v": torch.rand(6, generator=generator)}


def binary_loss(name, settings, functional=None, **options):
    """A loss of scores and binary targets, and its functional form."""
    functional = functional and f"{ROOM}.{functional}"
    return Loss(f"{ROOM}.{name}", settings, binary, functional=functional, undefined=one_class, gather=True, **options)


def with_variables(generator, n):
    """The batch with the variables of a minimax form."""
    return {**binary(generator, n), "a": torch.rand(10, generator=generator), "b": torch.rand(8, generator=generator)}


def remembering(name, settings):
    """A loss that remembers the positives of a training set of 24."""
    settings = settings | {"num_samples": 24}
    return Loss(f"{ROOM}.{name}", settings, indexed(binary), undefined=indexed(one_class), gather=True)


def weighted(inputs):
    """The batch with a weight per sample."""
    return lambda generator, n: {**inputs(generator, n), "sample_weight": 0.1 + torch.rand(n, generator=generator)}


def measure(name, function, settings, inputs=binary, undefined=one_class):
    """A metric and its function."""
    return (
        Measure(f"{ROOM}.{name}", settings, inputs, functional=f"{ROOM}.{function}", undefined=undefined),
        Function(f"{ROOM}.{function}", settings, inputs),
    )


ENTRIES = (
    binary_loss("PairwiseAUCLoss", {"surrogate": "squared_hinge", "margin": 1.0}, "pairwise_auc_loss"),
    Function(f"{ROOM}.pairwise_auc_loss", {"margin": 1.0}, binary),
    binary_loss("PartialAUCLoss", REGION | {"boundary": "fractional"}, "partial_auc_loss"),
    Function(f"{ROOM}.partial_auc_loss", REGION, weighted(binary)),
    binary_loss("ExactPartialSquareLoss", REGION | {"margin": 0.7}),
    Function(f"{ROOM}.exact_partial_square_risk", REGION, weighted(binary)),
    binary_loss("WeightedPartialAUCLoss", WEIGHTS, "weighted_partial_auc_loss"),
    Function(f"{ROOM}.weighted_partial_auc_loss", WEIGHTS, weighted(binary)),
    binary_loss("InstancewiseWeightedPartialAUCLoss", WEIGHTS | {"margin": 0.7, "reg_a": 0.1}, exempt=STARTED),
    Loss(
        f"{ROOM}.InstancewiseWeightedPartialAUCLoss",
        WEIGHTS | {"prior": 0.3, "reg_b": 0.1},
        binary,
        gather=True,
        exempt=STARTED,
    ),
    Function(f"{ROOM}.instancewise_weighted_objective", WEIGHTS | {"prior": 0.3}, with_variables),
    binary_loss("InstancewisePartialAUCLoss", REGION | {"kappa": 4.0, "omega": 0.1}),
    binary_loss("UnbiasedInstancewisePartialAUCLoss", REGION | {"omega": 0.1}),
    Loss(
        f"{ROOM}.UnbiasedInstancewisePartialAUCLoss",
        REGION | {"c_mode": "learned", "num_samples": 24, "c_init": 0.5},
        indexed(binary),
        undefined=indexed(one_class),
        gather=True,
    ),
    Function(f"{ROOM}.instancewise_partial_auc_objective", REGION | {"inner": INNER, "kappa": 4.0}, binary),
    remembering("CVaRPartialAUCLoss", {"max_fpr": 0.4}),
    remembering("KLPartialAUCLoss", {"temperature_neg": 2.0, "rate_neg": 0.3}),
    remembering("KLPartialAUCLoss", {"temperature_neg": 2.0, "temperature_pos": 0.7, "rate_pos": 0.5}),
    Function(f"{ROOM}.kl_partial_auc_loss", {"temperature_neg": 2.0, "temperature_pos": 0.7}, binary),
    Function(f"{ROOM}.smoothing_gap", REGION | {"kappa": 4.0}, binary),
    binary_loss("AUPRCLoss", {"prior": 0.05}, exempt={GRADIENTS: CONSTANT}),
    Function(f"{ROOM}.smooth_ap_loss", {"temperature": 0.1}, binary),
    Function(f"{ROOM}.soprc_query_loss", {"prior": 0.1}, query),
    Function(f"{ROOM}.soprc_batch_loss", {}, similarities),
    Loss(
        f"{ROOM}.SOPRCLoss",
        {"class_counts": (31, 23, 11)},
        embeddings,
        gather=True,
        exempt={
            GRADIENTS: CONSTANT,
            "equal_scores_are_finite_and_the_same_each_time": "embeddings of norm zero have no cosine and are refused",
            "one_sample_is_no_accident": "a batch in which no anchor has a pair is refused, since it trains nothing",
        },
    ),
    *measure("RetrievalMetrics", "retrieval_metrics", {"recall_at": (1, 4)}, embeddings, None),
    *measure("AUROC", "auroc", {}, weighted(labels), None),
    *measure("OPAUC", "opauc", {"max_fpr": 0.4, "normalization": "mcclish"}, weighted(binary)),
    *measure("TPAUC", "tpauc", REGION),
    *measure("PartialAUROC", "partial_auroc", {"pos_frac": 0.5, "neg_frac": 0.7}, weighted(binary)),
    *measure("AveragePrecision", "average_precision", {}, weighted(binary)),
    *measure("MulticlassAUROC", "multiclass_auroc", {"average": "ovr"}, weighted(classes), one_kind),
    Function(f"{ROOM}.pairwise_auroc", {}, weighted(classes)),
    Loss(
        f"{ROOM}.MulticlassAUCLoss",
        {"margin": 0.7, "average": "ovr", "reduction": "sum"},
        classes,
        functional=f"{ROOM}.multiclass_auc_loss",
        undefined=one_kind,
        gather=True,
    ),
    Function(f"{ROOM}.multiclass_auc_loss", {"margin": 0.7}, classes),
    Loss(
        f"{ROOM}.MultilabelAUCLoss",
        {"margin": 0.7, "ignore_index": -1},
        multilabel(),
        functional=f"{ROOM}.multilabel_auc_loss",
        undefined=no_label,
        gather=True,
    ),
    Function(f"{ROOM}.multilabel_auc_loss", {"margin": 0.7}, weighted(multilabel())),
    Loss(
        f"{ROOM}.MultiTaskAUCLoss",
        {"reduction": "sum"},
        of_users,
        functional=f"{ROOM}.multitask_auc_loss",
        undefined=of_one_class,
        gather=True,
    ),
    Function(f"{ROOM}.multitask_auc_loss", {}, of_users),
    binary_loss("MinMaxAUCLoss", {}, exempt=STARTED),
    binary_loss("MinMaxAUCLoss", {"form": "prior", "prior": 0.2}, exempt=STARTED),
    binary_loss("MinMaxAUCLoss", {"inner": "closed_form"}),
    Function(f"{ROOM}.minmax_auc_loss", SADDLE | {"prior": 0.2}, shares),
    binary_loss("DRAUCLoss", {"margin": 0.5, "k": 2.0}),
    binary_loss("DRAUCLoss", {"alpha_rule": "pesg"}),
    binary_loss("DRAUCLoss", {"alpha_rule": "closed_form"}),
    Function(f"{ROOM}.drauc_loss", SADDLE | {"margin": 0.5, "k": 2.0}, shares),
    Function(f"{ROOM}.corrupted_auroc", {"kinds": ["contrast"], "severities": [2], "seed": 1}, pictures),
    Function(f"{ROOM}.robust_auroc", {"attack": ATTACK, "radii": [0.1], "batch_size": 7}, attacked),
    Function(f"{ROOM}.wasserstein_ascent", {"steps": 2, "lr": 0.1}, moved),
    Function(f"{ROOM}.roc_curve", {}, weighted(binary)),
    Function(f"{ROOM}.precision_recall_curve", {}, weighted(binary)),
)

OTHERS: dict[str, str] = {
    f"{ROOM}.metrics": "the folder of the metrics, for those who want all of them",
    f"{ROOM}.Criterion": "a metric chosen by name, whose scores the metric itself checks",
    f"{ROOM}.plot_roc": "a picture of a curve, not a value",
    f"{ROOM}.plot_precision_recall": "a picture of a curve, not a value",
    f"{ROOM}.LinearMulticlassAUC": "fitted to a table to rank, and predicts no class; see its tests",
    f"{ROOM}.MultiTaskAUC": "fitted to the users of every row, which no estimator of scikit-learn is told",
    f"{ROOM}.PGDAttack": "the settings of an attack, which `robust_auroc` checks",
    f"{ROOM}.RobustAUROC": "fed with a model and inputs instead of scores; see `robust_auroc`",
    f"{ROOM}.WassersteinPerturbation": "an adversary with a price, whose ascent is `wasserstein_ascent`",
    f"{ROOM}.adversarial_auc_step": "a step of training, which changes a model",
}
