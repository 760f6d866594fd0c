"""PySODMetrics' side of `saliency.py`, run by an interpreter that has it.

It reads what to do from standard input, a line of JSON a turn, and answers in a line.
"""

import json
import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")
import py_sod_metrics as peer  # noqa: E402


def _made(what):
    handler = {"fm": peer.FmeasureHandler(beta=0.3, with_dynamic=True, with_adaptive=False, sample_based=True)}
    made = {"si_mae": peer.SizeInvarianceMAE(), "si_f": peer.SizeInvarianceFmeasureV2(metric_handlers=handler)}
    if what == "everything":
        made |= {"mae": peer.MAE(), "f": peer.Fmeasure(), "e": peer.Emeasure()}
        made |= {"s_measure": peer.Smeasure(), "wf": peer.WeightedFmeasure()}
    return made


def _values(made):
    """The names of `SaliencyReport`; curves are averaged over images."""
    found = {"si_mae": made["si_mae"].get_results()["si_mae"]}
    curves = made["si_f"].metric_handlers if hasattr(made["si_f"], "metric_handlers") else made["si_f"]._metric_handlers
    curve = np.mean([np.mean(each, 0) for each in curves["fm"].dynamic_results], 0)
    found |= {"si_f_max": curve.max(), "si_f_mean": curve.mean()}
    if "mae" in made:
        found |= {"mae": made["mae"].get_results()["mae"], "wf": made["wf"].get_results()["wfm"]}
        found |= {"s_measure": made["s_measure"].get_results()["sm"]}
        for name, key in (("f", "fm"), ("e", "em")):
            part = made[name].get_results()[key]
            found |= {f"{name}_max": part["curve"].max(), f"{name}_mean": part["curve"].mean()}
            found |= {f"{name}_adaptive": part["adp"]}
    return {name: float(value) for name, value in found.items()}


def main():
    """Take turns until the input ends."""
    with np.load(sys.argv[1]) as file:
        maps, masks = file["maps"], file["masks"] > 0
    for line in sys.stdin:
        asked = json.loads(line)
        made = _made(asked["what"])
        start = time.process_time()
        for one, mask in zip(maps[: asked["maps"]], masks, strict=False):
            for each in made.values():
                each.step(one / 255, mask, normalize=False)
        taken = time.process_time() - start
        print(json.dumps({"processor": taken, "values": _values(made)}), flush=True)


if __name__ == "__main__":
    main()
