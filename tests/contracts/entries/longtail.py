"""The public names of `equipoise.longtail`."""

from contracts.model import Optimizer

COUNTS = [30, 20, 8, 4]

ENTRIES = (
    Optimizer("equipoise.longtail.SAM", {"rho": 0.05}),
    Optimizer("equipoise.longtail.ImbSAM", {"class_counts": COUNTS, "rho": 0.05, "eta": 10.0}),
    Optimizer("equipoise.longtail.FocalSAM", {"class_counts": COUNTS, "rho": 0.05, "gamma": 1.0, "lam": 0.5}),
    Optimizer("equipoise.longtail.SSESAM", {"class_counts": COUNTS, "total_epochs": 4, "eta": 10.0}),
    Optimizer("equipoise.longtail.ClassConditionalSAM", {"class_counts": COUNTS, "rho": 0.05}),
)
