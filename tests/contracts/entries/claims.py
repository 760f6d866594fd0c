"""The public names of `equipoise.claims`."""

ENTRIES = ()

OTHERS = {
    "equipoise.claims.Bound": "a record of a part of a claim; tests/claims gives it bad bounds",
    "equipoise.claims.Gain": "a record of a part of a claim; tests/claims gives it a bad effect",
    "equipoise.claims.Experiment": "a record of how to run; tests/claims gives it bad seeds",
    "equipoise.claims.Claim": "a record of a statement and its experiments",
    "equipoise.claims.ClaimResult": "a result that the library makes",
    "equipoise.claims.ClaimRun": "measures that the library took",
    "equipoise.claims.PartResult": "a result that the library makes",
    "equipoise.claims.claims_page": "writes results that the library made as text",
    "equipoise.claims.write_result": "writes results that the library made as files",
    "equipoise.claims.judge_again": "takes a folder only; a test of claims gives it one that holds something else",
    "equipoise.claims.available_claims": "takes nothing that could be wrong",
    "equipoise.claims.load_claim": "takes a name only; its test gives it a wrong one",
    "equipoise.claims.run_claim": "takes a claim that the library declares",
    "equipoise.claims.run_claims": "takes names only; its test gives it wrong ones",
    "equipoise.claims.judge_blocks": "takes verdicts that the library made",
    "equipoise.claims.judge_claim": "takes a claim that the library declares",
    "equipoise.claims.judge_bound": "takes values of an experiment; its test holds NaN to be no support",
    "equipoise.claims.judge_gain": "takes values of an experiment; its test holds NaN to be no support",
}
