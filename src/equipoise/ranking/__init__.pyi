from . import metrics as metrics
from .criteria import Criterion as Criterion
from .linear_multiclass_auc import LinearMulticlassAUC as LinearMulticlassAUC
from .metrics.binary_areas import AUROC as AUROC
from .metrics.binary_areas import OPAUC as OPAUC
from .metrics.binary_areas import TPAUC as TPAUC
from .metrics.binary_areas import AveragePrecision as AveragePrecision
from .metrics.binary_areas import PartialAUROC as PartialAUROC
from .metrics.binary_areas import auroc as auroc
from .metrics.binary_areas import average_precision as average_precision
from .metrics.binary_areas import opauc as opauc
from .metrics.binary_areas import partial_auroc as partial_auroc
from .metrics.binary_areas import tpauc as tpauc
from .metrics.curves import plot_precision_recall as plot_precision_recall
from .metrics.curves import plot_roc as plot_roc
from .metrics.curves import precision_recall_curve as precision_recall_curve
from .metrics.curves import roc_curve as roc_curve
from .metrics.multiclass import MulticlassAUROC as MulticlassAUROC
from .metrics.multiclass import multiclass_auroc as multiclass_auroc
from .metrics.multiclass import pairwise_auroc as pairwise_auroc
from .multiclass_auc import MulticlassAUCLoss as MulticlassAUCLoss
from .multiclass_auc import multiclass_auc_loss as multiclass_auc_loss
from .multitask.estimator import MultiTaskAUC as MultiTaskAUC
from .multitask.multitask_auc import MultiTaskAUCLoss as MultiTaskAUCLoss
from .multitask.multitask_auc import multitask_auc_loss as multitask_auc_loss
from .pairwise_auc import PairwiseAUCLoss as PairwiseAUCLoss
from .pairwise_auc import pairwise_auc_loss as pairwise_auc_loss
from .partial.instancewise_objective import instancewise_partial_auc_objective as instancewise_partial_auc_objective
from .partial.instancewise_partial_auc import InstancewisePartialAUCLoss as InstancewisePartialAUCLoss
from .partial.instancewise_partial_auc import UnbiasedInstancewisePartialAUCLoss as UnbiasedInstancewisePartialAUCLoss
from .partial.instancewise_weighted_partial_auc import (
    InstancewiseWeightedPartialAUCLoss as InstancewiseWeightedPartialAUCLoss,
)
from .partial.instancewise_weighted_partial_auc import (
    instancewise_weighted_objective as instancewise_weighted_objective,
)
from .partial.partial_auc import ExactPartialSquareLoss as ExactPartialSquareLoss
from .partial.partial_auc import PartialAUCLoss as PartialAUCLoss
from .partial.partial_auc import exact_partial_square_risk as exact_partial_square_risk
from .partial.partial_auc import partial_auc_loss as partial_auc_loss
from .partial.smoothing_gap import smoothing_gap as smoothing_gap
from .partial.stateful_partial_auc import CVaRPartialAUCLoss as CVaRPartialAUCLoss
from .partial.stateful_partial_auc import KLPartialAUCLoss as KLPartialAUCLoss
from .partial.stateful_partial_auc import kl_partial_auc_loss as kl_partial_auc_loss
from .partial.weighted_partial_auc import WeightedPartialAUCLoss as WeightedPartialAUCLoss
from .partial.weighted_partial_auc import weighted_partial_auc_loss as weighted_partial_auc_loss
from .precision.auprc import AUPRCLoss as AUPRCLoss
from .precision.auprc import smooth_ap_loss as smooth_ap_loss
from .precision.auprc import soprc_query_loss as soprc_query_loss
from .precision.retrieval import SOPRCLoss as SOPRCLoss
from .precision.retrieval import soprc_batch_loss as soprc_batch_loss
from .precision.retrieval_metrics import RetrievalMetrics as RetrievalMetrics
from .precision.retrieval_metrics import retrieval_metrics as retrieval_metrics
from .robust.adversarial_auc import PGDAttack as PGDAttack
from .robust.adversarial_auc import adversarial_auc_step as adversarial_auc_step
from .robust.distributional_auc import DRAUCLoss as DRAUCLoss
from .robust.distributional_auc import corrupted_auroc as corrupted_auroc
from .robust.distributional_auc import drauc_loss as drauc_loss
from .robust.minmax_auc import MinMaxAUCLoss as MinMaxAUCLoss
from .robust.minmax_auc import minmax_auc_loss as minmax_auc_loss
from .robust.robust_auroc import RobustAUROC as RobustAUROC
from .robust.robust_auroc import robust_auroc as robust_auroc
from .robust.wasserstein import WassersteinPerturbation as WassersteinPerturbation
from .robust.wasserstein import wasserstein_ascent as wasserstein_ascent
