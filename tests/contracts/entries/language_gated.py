"""The public names of `equipoise.language` for gated units."""

import torch

from contracts.model import Function

# The room is that of `entries/language.py`.
PACKAGES: list[str] = []


def _normal(generator, *shape):
    return torch.randn(*shape, generator=generator)


def _kernel(generator, n):
    return _normal(generator, n, 2 * n).cov()


def _samples(generator, n):
    return {"x": _normal(generator, n, 4)}


def _weights(generator, n):
    shapes = {"w": (6, 4), "v": (2, 6), "p": (6, 4)}
    return _samples(generator, n) | {name: _normal(generator, *shape) for name, shape in shapes.items()}


def _covariances(generator, n):
    u, v = _normal(generator, n, 3), _normal(generator, n, 3)
    return {"k11": u.square().mean(1), "k22": v.square().mean(1), "k12": (u * v).mean(1)}


def _target(generator, n):
    return {"kernel": _kernel(generator, n), "y": _normal(generator, n)}


def _two(generator, n):
    return {"plain": _kernel(generator, n), "gated": _kernel(generator, n), "y": _normal(generator, n)}


def _clouds(generator, n):
    return {"a": _normal(generator, n, 2), "b": _normal(generator, n + 3, 2)}


def _curves(generator, n):
    return {f"{part}_{kind}": torch.rand(3, n, generator=generator) for kind in "ab" for part in ("train", "test")}


def _module(generator, n):
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    return {"model": net.eval(), **_samples(generator, n)}


_ANY_INPUTS = {"bad_arguments_are_refused_by_name": "inputs of a model may be whole numbers and of any rank"}
_BROADCAST = {"bad_arguments_are_refused_by_name": "its shapes are broadcast, so that one sample fewer is one for all"}

ENTRIES = [
    Function("equipoise.language.activation_kernel", {"activation": "gelu"}, _covariances, _BROADCAST),
    Function("equipoise.language.two_layer_ntk", {"width": 8, "gated": True, "sigma_w2": 0.5}, _samples),
    Function("equipoise.language.two_layer_empirical_ntk", {"reduction": "full"}, _weights),
    Function("equipoise.language.empirical_ntk", {"chunk_size": 5}, _module, _ANY_INPUTS),
    Function("equipoise.language.ntk_contributions", {"chunk_size": 5}, _module, _ANY_INPUTS),
    Function(
        "equipoise.language.ntk_spectrum",
        {},
        lambda generator, n: {"kernel": _kernel(generator, n)},
    ),
    Function("equipoise.language.expected_gd_loss", {"eta": 0.1, "steps": [0, 3], "init_cov": "zero"}, _target),
    Function("equipoise.language.loss_phases", {"eta": 0.1}, _target),
    Function("equipoise.language.loss_crossing_step", {"eta": 0.1, "init_cov": "zero", "max_steps": 500}, _two),
    Function("equipoise.language.matched_glu_width", {"in_dim": 4, "hidden": 9, "out_dim": 2}),
    Function("equipoise.language.GLUBlock", {"dim": 4, "hidden": 9, "activation": "silu", "init": "lecun"}),
    Function("equipoise.language.energy_distance", {"squared": False}, _clouds),
    Function("equipoise.language.energy_permutation_test", {"n_perm": 20}, _clouds),
    Function("equipoise.language.generalization_gap_test", {"n_perm": 20}, _curves),
]

OTHERS = {
    "equipoise.language.ActivationKernel": "a result that the library makes",
    "equipoise.language.CenteredModel": "a module around another one; its tests hold it",
    "equipoise.language.ConditionMonitor": "it measures with `empirical_ntk`, which checks what it is given",
    "equipoise.language.LossPhases": "a result that the library makes",
    "equipoise.language.NTK": "a result that the library makes",
    "equipoise.language.PermutationTest": "a result that the library makes",
    "equipoise.language.Spectrum": "a result that the library makes",
}
