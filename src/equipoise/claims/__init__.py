"""One experiment a paper, written only against the public API: what it claims, measured beside a baseline."""

from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.claims.page import claims_page, write_result
from equipoise.claims.results import ClaimResult, PartResult
from equipoise.claims.runner import available_claims, load_claim, run_claim, run_claims
from equipoise.claims.verdict import judge_bound, judge_gain

__all__ = [
    "Bound",
    "Claim",
    "ClaimResult",
    "Experiment",
    "Gain",
    "PartResult",
    "available_claims",
    "claims_page",
    "judge_bound",
    "judge_gain",
    "load_claim",
    "run_claim",
    "run_claims",
    "write_result",
]
