from .boosting.consolidation import memory_consolidation_loss as memory_consolidation_loss
from .boosting.ensemble import ModalityEnsemble as ModalityEnsemble
from .boosting.ensemble import ensemble_logits as ensemble_logits
from .boosting.macro_accuracy import MacroAccuracy as MacroAccuracy
from .boosting.reconcilement import ReconcilementLoss as ReconcilementLoss
from .boosting.reconcilement import reconcilement_loss as reconcilement_loss
from .boosting.reconcilement import residual_target as residual_target
