"""Where `XGBoostRankingClassifier` stood before `equipoise.estimators`; old imports go on to work."""

from equipoise.estimators.xgboost import XGBoostRankingClassifier

__all__ = ["XGBoostRankingClassifier"]
