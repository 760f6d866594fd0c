"""Where `EquipoiseClassifier` stood before `equipoise.estimators`; old imports go on to work."""

from equipoise.estimators.network_classifier import EquipoiseClassifier

__all__ = ["EquipoiseClassifier"]
