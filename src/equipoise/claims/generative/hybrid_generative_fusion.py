"""Hybrid generative fusion: identities that two cleaners clean, and synthetic ones in place of those left small."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from equipoise.claims.lab.latent_identities import DIM, WIDTH, LatentSample, centres, draw, embed, noisy_source
from equipoise.claims.lab.tuning import Setting, Tuning, grid
from equipoise.claims.model import Bound, Claim, Experiment, Gain
from equipoise.generative import (
    ClusterCleaner,
    IdentityDatasetBuilder,
    JudgeCleaner,
    Manifest,
    NoisyOracleJudge,
    leakage_check,
)
from equipoise.ranking import auroc

_IDENTITIES, _TESTED, _PROTECTED, _PER_TESTED, _SAMPLES, _LEAST = 120, 60, 60, 6, 20, 5
_STEPS, _BATCH, _COPIES, _THRESHOLD = 500, 128, 0.2, 0.5
_RAW, _CLUSTER, _JUDGE, _BOTH = "raw", "cluster cleaner", "judge", "both cleaners"
_DROPPED, _HYBRID, _UNCHECKED = "both, small ones dropped", "both, small ones replaced", "replaced, not checked"
_TRAINED = (_RAW, _CLUSTER, _JUDGE, _BOTH, _DROPPED, _HYBRID)
_FEWER = (_RAW, _BOTH, _DROPPED, _HYBRID)
_PICTURES = "pictures themselves"
_AUC, _PURITY, _LEAKED = "verification AUC", "purity", "leaked synthetic identities"
_ERROR = "similarity told, largest error"
Folders = dict[str, list[LatentSample]]


class _World:
    """A noisy source, protected and tested identities, and a generator that sometimes copies a protected one."""

    def __init__(self, seed: int, beside: float) -> None:
        generator = Generator().manual_seed(seed)
        self.seed, self.beside = seed, beside
        self.source = noisy_source(centres(_IDENTITIES, generator), generator, beside=beside)
        self.people = centres(_PROTECTED, generator)
        who = torch.arange(_PROTECTED).repeat_interleave(_PER_TESTED)
        self.protected = embed(draw(self.people[who], who.tolist(), generator))
        whom = torch.arange(_TESTED).repeat_interleave(_PER_TESTED)
        self.tested = draw(centres(_TESTED, generator)[whom], whom.tolist(), generator, beside=beside)

    def new(self, prompt: str, seed: int) -> LatentSample:
        generator = Generator().manual_seed(seed)
        copied = float(torch.rand(1, generator=generator)) < _COPIES
        chosen = int(torch.randint(_PROTECTED, (1,), generator=generator))
        centre = self.people[chosen : chosen + 1] if copied else centres(1, generator)
        return draw(centre, [-1], generator, 0.35, 0.2, self.beside)[0]

    def more(self, embedding: Tensor, seed: int) -> LatentSample:
        return draw(embedding[None].float(), [-1], Generator().manual_seed(seed), 0.35, 0.2, self.beside)[0]

    def built(self, arm: str) -> tuple[Manifest | None, Folders]:
        """The manifest of an arm, and its samples by identity."""
        folders = {name: list(given.values()) for name, given in self.source.items()}
        if arm == _RAW:
            return None, folders
        cluster = ClusterCleaner()
        judge = JudgeCleaner(NoisyOracleJudge(lambda sample: sample.identity, 0.1, self.seed))
        cleaners: list[Any] = [cluster] if arm == _CLUSTER else [judge] if arm == _JUDGE else [cluster, judge]
        build = partial(IdentityDatasetBuilder, embed, cleaners, target_count=_SAMPLES, seed=self.seed)
        if arm in (_HYBRID, _UNCHECKED):
            reference = self.protected if arm == _HYBRID else None
            builder = build(
                seed_generator=self.new,
                expander=self.more,
                reference=reference,
                leakage_threshold=_THRESHOLD,
                check_source=False,
                min_count=_LEAST,
            )
        else:
            builder = build(min_count=_LEAST if arm == _DROPPED else 1)
        manifest = builder.build(self.source)
        values = {name: sample for given in self.source.values() for name, sample in given.items()}
        values.update(manifest.samples)
        kept: Folders = {}
        for row in manifest.kept_rows():
            kept.setdefault(row.identity, []).append(values[row.sample])
        return manifest, kept


def _purity(folders: Folders) -> float:
    """The share of real samples that show whom their folder is of."""
    right = [sample.identity == int(name) for name, each in folders.items() if name.isdigit() for sample in each]
    return sum(right) / len(right)


def _leaked(world: _World, folders: Folders) -> float:
    """The share of synthetic identities of which a sample is too near to a protected one, by all products."""
    made = [each for name, each in folders.items() if not name.isdigit()]
    unit = normalize(world.protected.double(), dim=1)
    near = [bool((normalize(embed(each).double(), dim=1) @ unit.T >= _THRESHOLD).any()) for each in made]
    return sum(near) / len(near)


def _recogniser(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(WIDTH, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, DIM))


def _trained(folders: Folders, setting: Setting, seed: int, quick: bool) -> nn.Module:
    x = torch.stack([sample.picture for each in folders.values() for sample in each])
    y = torch.tensor([k for k, each in enumerate(folders.values()) for _ in each])
    generator = Generator().manual_seed(seed)
    model = _recogniser(seed)
    weight = nn.Parameter(torch.randn(len(folders), DIM, generator=generator))
    optimizer = torch.optim.SGD(
        [*model.parameters(), weight], lr=0.1, momentum=0.9, weight_decay=setting["weight_decay"], fused=True
    )
    steps = _STEPS // 10 if quick else _STEPS
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for drawn in torch.randint(len(x), (steps, _BATCH), generator=generator):
        cosine = normalize(model(x[drawn]), dim=1) @ normalize(weight, dim=1).T
        loss = cross_entropy(setting["scale"] * cosine, y[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _verification(model: nn.Module, tested: list[LatentSample]) -> float:
    """AUC of the cosine over all pairs of pictures of unseen identities."""
    with torch.no_grad():
        unit = normalize(model(torch.stack([sample.picture for sample in tested])), dim=1)
    who = torch.tensor([sample.identity for sample in tested])
    first, second = torch.triu_indices(len(who), len(who), 1)
    same = (who[first] == who[second]).long()
    return float(auroc((unit @ unit.T)[first, second], same))


@lru_cache(maxsize=8)
def _built(seed: int, beside: float, arm: str) -> tuple[_World, Manifest | None, Folders]:
    world = _World(seed, beside)
    return world, *world.built(arm)


def _one(arm: str, setting: Setting, seed: int, beside: float, quick: bool = False) -> dict[str, float]:
    world, _, folders = _built(seed, beside, arm)
    model = _trained(folders, setting, seed, quick)
    return {_AUC: _verification(model, world.tested), _PURITY: _purity(folders)}


def _run(seed: int, quick: bool, settings: dict[str, Setting], *, beside: float = 0.0) -> dict[str, dict[str, float]]:
    found = {arm: _one(arm, setting, seed, beside, quick) for arm, setting in settings.items()}
    world, manifest, folders = _built(seed, beside, _HYBRID)
    found[_PICTURES] = {_AUC: _verification(nn.Identity(), world.tested)}
    if beside or manifest is None:
        return found
    # What leaks does not depend on what pictures show.
    rows = [row for row in manifest.kept_rows() if row.source == "synthetic"]
    made = embed([manifest.samples[row.sample] for row in rows])
    told = torch.tensor([row.reference_similarity for row in rows])
    exact = leakage_check(made, world.protected, _THRESHOLD).max_similarity
    found[_HYBRID] |= {_LEAKED: _leaked(world, folders), _ERROR: float((told - exact).abs().max())}
    found[_UNCHECKED] = {_LEAKED: _leaked(world, _built(seed, beside, _UNCHECKED)[2])}
    return found


def _score(arm: str, setting: Setting, seed: int, *, beside: float) -> float:
    return _one(arm, setting, seed, beside)[_AUC]


def _tuning(arms: tuple[str, ...], beside: float) -> Tuning:
    settings = grid(scale=(16.0, 8.0), weight_decay=(0.05, 0.0))
    return Tuning(dict.fromkeys(arms, settings), partial(_score, beside=beside))


_TRAINING = (
    "A fifth of the seed samples copy one of 60 protected identities, with 6 embeddings each; a synthetic identity is "
    "rejected from a cosine of .5 with one of these, or with the centre of another identity; source identities are not "
    "held against the protected ones. Recogniser: Linear(48, 96), BatchNorm, ReLU, Linear(96, 32); cosine softmax, SGD "
    "of rate .1 with momentum .9 and a cosine over 500 steps of 128. Judged by the AUC of cosines over all pairs of 6 "
    "pictures each of 60 other identities. Purity: share of kept source samples that show whom they are said to show. "
    "Every trained arm has 4 settings to choose from, by that AUC on 3 other seeds: scale 16 or 8, weight decay .05 or "
    "0."
)
_GAINS = (
    Gain("both cleaners train a better recogniser than the raw source", _BOTH, _RAW, _AUC, 0.02),
    Gain("replacing small identities is better than dropping them", _HYBRID, _DROPPED, _AUC, 0.002),
)
_SHOWN = (
    Gain("replacing beside cleaning alone", _HYBRID, _BOTH, _AUC, 0.002, asserted=False),
    Gain("dropping small identities beside keeping them", _DROPPED, _BOTH, _AUC, 0.002, asserted=False),
    Gain("the recogniser beside cosines of the pictures themselves", _HYBRID, _PICTURES, _AUC, 0.01, asserted=False),
)

CLAIM = Claim(
    slug="hybrid-generative-fusion",
    statement=(
        "A noisy identity set is cleaned best by two different cleaners; replacing identities that became too small by "
        "synthetic ones trains a better recogniser than dropping them, and a check keeps protected people out."
    ),
    experiments=(
        Experiment(
            name="Latent identities",
            protocol=(
                "Identities are directions on a sphere of 32 dimensions, a sample is z = unit(centre + .55 N/√32), its "
                "picture tanh(2 z A) + .25 N with 48 values and its embedding z + .25 N/√32. The source: 120 "
                "identities of 20 samples, a quarter of them of 4; 30 % of all samples show another of the 120. "
                "Cluster cleaner: the largest cluster, threshold moved from .6 until half to four fifths are kept. "
                "Judge: knows who most samples show, and errs on 10 % of them. Both: the intersection. Identities of "
                "fewer than 5 kept samples are dropped, or replaced by as many synthetic ones of 20 samples (spread "
                ".35, noise .2). "
                f"{_TRAINING}"
            ),
            run=_run,
            parts=(
                Gain("both cleaners train a better recogniser than the raw source", _BOTH, _RAW, _AUC, 0.05),
                _GAINS[1],
                Gain("what both keep is purer than what the judge keeps", _BOTH, _JUDGE, _PURITY, 0.01),
                Gain("what both keep is purer than what the cluster cleaner keeps", _BOTH, _CLUSTER, _PURITY, 0.0001),
                Bound("no synthetic identity is near a protected one", _HYBRID, _LEAKED, at_most=0.0),
                Bound(
                    "the similarity in the manifest is that of all products",
                    _HYBRID,
                    _ERROR,
                    at_most=1e-5,
                ),
                *_SHOWN,
                Gain("both cleaners beside the cluster cleaner", _BOTH, _CLUSTER, _AUC, 0.002, asserted=False),
                Gain("both cleaners beside the judge", _BOTH, _JUDGE, _AUC, 0.002, asserted=False),
                Bound("share that leaks without the check", _UNCHECKED, _LEAKED, at_least=0.0, asserted=False),
            ),
            tuning=_tuning(_TRAINED, 0.0),
        ),
        Experiment(
            name="Pictures that show more than the identity",
            protocol=(
                "As above, but a picture is tanh(2 (z A + u B)) + .25 N, where 8 values u ~ N, drawn for each picture, "
                "stand for light and pose, so that pictures cannot be compared as they are. B is 8 x 48, N/√32. "
                f"Embeddings do not show u. {_TRAINING}"
            ),
            run=partial(_run, beside=1.0),
            parts=(*_GAINS, *_SHOWN),
            tuning=_tuning(_FEWER, 1.0),
        ),
    ),
    caveats=(
        "Identities are directions with noise around them; no pictures of faces, no generator of pictures and no "
        "language model as a judge were tried. The judge here knows the truth but for its errors.",
        "Synthetic identities come from the distribution of real ones, with less spread. A real generator has a gap to "
        "real pictures, which is not part of these worlds.",
        "The weight decay to choose from was added after about thirteen settings had been looked at on three other "
        "seeds, since without it the order of cleaned and raw data turned with scale and rate.",
        "In the first world pictures can be compared as they are, without training; the second one is added for that.",
        "The order of training (a curriculum) was not tested.",
    ),
)
