"""The public names of `equipoise.workflows`."""

ENTRIES = ()

OTHERS = {
    "equipoise.workflows.ClickModel": "made by `fit_clicks`; tests/workflows saves, loads and asks it",
    "equipoise.workflows.ClicksOutcome": "a result that the library makes",
    "equipoise.workflows.ClicksRequest": "a record of options, checked against the table by `fit_clicks`",
    "equipoise.workflows.CompleteRequest": "a record of options, checked against the graph by `complete_graph`",
    "equipoise.workflows.CompleteOutcome": "a result that the library makes",
    "equipoise.workflows.complete_graph": "reads and writes files; tests/workflows/complete gives it bad ones",
    "equipoise.workflows.fit_clicks": "reads and writes files; tests/workflows/clicks gives it bad ones",
    "equipoise.workflows.fit_table": "reads and writes files; tests/workflows/tables and tests/cli give it bad ones",
    "equipoise.workflows.predict_table": "reads and writes files; tests/cli gives it bad ones",
    "equipoise.workflows.evaluate_scores": "reads and writes files; tests/workflows/scores gives it bad ones",
    "equipoise.workflows.evaluate_open": "reads and writes files; tests/cli gives it bad ones",
    "equipoise.workflows.bench_tabular": "reads and writes files; tests/workflows/bench gives it bad ones",
    "equipoise.workflows.measure_bubbles": "reads and writes files; tests/workflows/bubble gives it bad ones",
    "equipoise.workflows.detect_mistakes": "a whole training of encoders; tests/workflows gives it bad segments",
    "equipoise.workflows.Segments": "a record of recordings that `detect_mistakes` is given",
    "equipoise.workflows.MistakeReport": "a result that the library makes",
    "equipoise.workflows.MistakeDetector": "made by `detect_mistakes`; tests/workflows saves, loads and asks it",
    "equipoise.workflows.FitRequest": "a record of options, checked against the table by `fit_table`",
    "equipoise.workflows.EvaluateRequest": "a record of options, checked against the table by `evaluate_scores`",
    "equipoise.workflows.OpenRequest": "a record of options, checked against the table by `evaluate_open`",
    "equipoise.workflows.BenchRequest": "a record of options, checked against the tables by `bench_tabular`",
    "equipoise.workflows.BubbleRequest": "a record of options, checked against the log by `measure_bubbles`",
    "equipoise.workflows.BubbleOutcome": "a result that the library makes",
    "equipoise.workflows.RecommendRequest": "a record of options, checked against the log by `recommend_items`",
    "equipoise.workflows.RecommendOutcome": "a result that the library makes",
    "equipoise.workflows.recommend_items": "reads and writes files; tests/workflows/recommend gives it bad ones",
    "equipoise.workflows.InputError": "the exception of bad files and options",
}
