from .delong import delong_difference as delong_difference
from .delong import delong_interval as delong_interval
from .roc import RocCurve as RocCurve
from .sketch import Bounds as Bounds
from .sketch import CurveSketch as CurveSketch
