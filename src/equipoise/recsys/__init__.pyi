from .evaluation.ranking_metrics import RankingMetrics as RankingMetrics
from .evaluation.ranking_metrics import metrics_per_user as metrics_per_user
from .evaluation.ranking_metrics import ranking_metrics as ranking_metrics
from .evaluation.user_metrics import Conventions as Conventions
