from .roc import RocCurve as RocCurve
from .sketch import Bounds as Bounds
from .sketch import CurveSketch as CurveSketch
