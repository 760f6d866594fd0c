"""Two views of a rare event, and heads that trade recall for precision."""

from __future__ import annotations

import torch
from torch import nn

from equipoise.claims.lab.mistake_worlds import batches, measured, two_views
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.longtail.mistakes.dual_stage import DualStageLoss, DualStageMoE

_DIM, _EPOCHS, _BATCH = 16, 15, 128


def _model(arm: str, seed: int) -> DualStageMoE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DualStageMoE(
            nn.Identity(),
            nn.Sequential(nn.Linear(_DIM, 32), nn.ReLU()),
            32,
            coarse_dim=_DIM,
            hidden=32,
            coarse_placeholder=True,
        )
    if arm == "equal weights":
        for parameter in model.feature_fusion.gate.parameters():
            nn.init.zeros_(parameter).requires_grad_(False)
    return model


def _run(seed: int, quick: bool) -> dict[str, dict[str, float]]:
    train = two_views(1500, _DIM, 0.06, 2.6, (1, 2), 1000 + seed)
    test = two_views(4000, _DIM, 0.06, 2.6, (1, 2), 2000 + seed)
    for world in (train, test):
        # Positives say in one coordinate of the segment where their evidence is; negatives say it at random.
        world.fine[:, 0] = torch.where(world.in_coarse, -1.0, 1.0)
    counts = torch.bincount(train.target)
    measures: dict[str, dict[str, float]] = {}
    for arm in ("fine only", "equal weights", "gated"):
        model, loss = _model(arm, seed), DualStageLoss(counts)
        learned = [value for value in model.parameters() if value.requires_grad]
        optimizer = torch.optim.SGD(learned, 0.05, momentum=0.9, weight_decay=5e-4)
        steps = list(batches(train.target, _BATCH, _EPOCHS, seed))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(steps))
        for batch in steps:
            optimizer.zero_grad()
            out = model(None if arm == "fine only" else train.coarse[batch], train.fine[batch])
            loss.backward(model, out, train.target[batch])
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            out = model.eval()(None if arm == "fine only" else test.coarse, test.fine)
        measures[arm] = measured(out["prob"][:, 1], test.target)
        if arm == "gated":
            heads = {name: measured(prob[:, 1], test.target) for name, prob in out["head_prob"].items()}
    measures |= {f"head {name}": values for name, values in heads.items()}
    measures["differences"] = {
        **{f"gated over fine only, {m}": measures["gated"][m] - measures["fine only"][m] for m in ("macro-F1", "AUC")},
        "decision over worst head, macro-F1": measures["gated"]["macro-F1"]
        - min(values["macro-F1"] for values in heads.values()),
        "recall of LA over the other heads": heads["la"]["mistake recall"]
        - max(heads[name]["mistake recall"] for name in ("rw", "auc")),
    }
    return measures


CLAIM = Claim(
    slug="dr-moe",
    statement=(
        "A rare mistake whose evidence is in the segment or in the whole recording is found by a model that sees both; "
        "the three imbalance objectives give heads that disagree, and their gated mixture is no worse than the worst."
    ),
    experiments=(
        Experiment(
            name="Two views of a rare event",
            protocol=(
                "1,500 training and 4,000 test samples, 6 % positives, two standard normal vectors of 16 each; a fair "
                "coin adds 2.6 to one coordinate of the fine or of the coarse vector of a positive and is written into "
                "coordinate 0 of the fine one. DualStageMoE with a linear map of the coarse vector, Linear-ReLU of the "
                "fine one, heads 32-32-2; SGD 0.05, momentum 0.9, weight decay 5e-4, cosine, 15 epochs of batches of "
                "128 with at least 2 positives, all losses together, SAM radius 0.05; same initial weights and batches "
                "for every arm of a seed. Macro-F1 and recall at threshold 0.5."
            ),
            run=_run,
            parts=(
                *(
                    Gain(f"both views beat the segment alone on {measure}", "gated", "fine only", measure, 0.10)
                    for measure in ("macro-F1", "AUC")
                ),
                *(
                    Bound(
                        f"and on every seed by 10 points of {measure}",
                        "differences",
                        f"gated over fine only, {measure}",
                        at_least=0.10,
                    )
                    for measure in ("macro-F1", "AUC")
                ),
                Bound(
                    "the decision is at most 1 point below the worst head",
                    "differences",
                    "decision over worst head, macro-F1",
                    at_least=-0.01,
                ),
                Bound(
                    "the logit-adjusted head has the highest mistake recall",
                    "differences",
                    "recall of LA over the other heads",
                    at_least=0.0,
                ),
                Gain("gate against equal weights", "gated", "equal weights", "macro-F1", 0.01, asserted=False),
                *(
                    Gain(f"decision against head {head}", "gated", f"head {head}", "macro-F1", 0.01, asserted=False)
                    for head in ("rw", "auc", "la")
                ),
            ),
        ),
    ),
    caveats=(
        "The report gives no formulas: the system is a reconstruction, and this is not a repetition of its result.",
    ),
)
