"""Where `LightGBMRankingClassifier` stood before `equipoise.estimators`; old imports go on to work."""

from equipoise.estimators.lightgbm import LightGBMRankingClassifier

__all__ = ["LightGBMRankingClassifier"]
