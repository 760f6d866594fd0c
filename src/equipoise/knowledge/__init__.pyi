from .diagnostics.relation_types import relation_types as relation_types
from .evaluation.evaluate import TailScorer as TailScorer
from .evaluation.evaluate import evaluate_link_prediction as evaluate_link_prediction
from .evaluation.filtered_ranking import FilteredRanks as FilteredRanks
from .evaluation.filtered_ranking import filtered_ranking as filtered_ranking
from .evaluation.rank_metrics import rank_metrics as rank_metrics
from .evaluation.report import LinkReport as LinkReport
