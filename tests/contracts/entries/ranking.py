"""The public names of `equipoise.ranking`."""

from contracts.model import Function, Loss, binary, one_class

ENTRIES = (
    Loss(
        "equipoise.ranking.PairwiseAUCLoss",
        {"surrogate": "squared_hinge", "margin": 1.0},
        binary,
        functional="equipoise.ranking.pairwise_auc_loss",
        undefined=one_class,
        gather=True,
    ),
    Function("equipoise.ranking.pairwise_auc_loss", {"margin": 1.0}, binary),
)

OTHERS: dict[str, str] = {}
