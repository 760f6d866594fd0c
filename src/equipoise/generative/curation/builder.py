"""An identity data set from a noisy source and synthetic identities, none of whom is in a protected set.

    clean → leave out what leaks → fill up by augmentation → replace identities that became too small → list

"Hybrid Generative Fusion", ICCV workshops 2025: the steps and their numbers as in the authors' code, the leakage check
and the separation reconstructed. Source samples are never changed or deleted: what comes out is a list with reasons.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from equipoise.core.fingerprint import fingerprint
from equipoise.core.settings import HasSettings
from equipoise.core.signature import as_whole, checked
from equipoise.core.types import Count, OpenFraction, Whole
from equipoise.generative.curation.cleaners import Cleaner, ClusterCleaner
from equipoise.generative.curation.combining import CombineMode, combine_cleaners, unique_samples
from equipoise.generative.curation.identity_cleaning import CleanedIdentity, checked_embeddings, clean_identity
from equipoise.generative.curation.leakage import LeakageCheck
from equipoise.generative.curation.manifest import Manifest, ManifestRow, similarities
from equipoise.generative.curation.progress import Finished, ProgressFile
from equipoise.generative.curation.prompts import IdentityPrompts
from equipoise.generative.curation.protected import Against, ProtectedSet
from equipoise.generative.curation.synthesis import Expander, IdentitySynthesis, SeedGenerator, derived_seed

Samples: TypeAlias = Mapping[str, Any] | Sequence[tuple[str, Any]]
Sink: TypeAlias = Callable[[ManifestRow, Any], None]
# Identities whose protected neighbours are looked for by one product.
_CHUNK = 64


class IdentityDatasetBuilder:
    """The whole pipeline with its settings.

    Args:
        embedder: samples → (n, d) embeddings of any length; called from several threads if `n_jobs` is above 1.
        cleaners: asked about every identity; none keep everything. By default `ClusterCleaner()`.
        augmenter: (sample, seed) → another sample of the same identity; None leaves identities as small as they are.
        seed_generator: of synthetic identities; None leaves them out.
        expander: of their further samples.
        reference: (m, d) embeddings of a protected set.
        reference_identity: (m,) whose they are, for `leakage_against`.
        prompts: seed → description of a synthetic identity.
        combine: how cleaners are combined, see `combine_cleaners`.
        weights: of the cleaners, for combine="weighted".
        bound: least sum of weights.
        target_count: samples of an identity; those nearest to the centre stay, and augmented ones fill up.
        min_count: an identity of fewer kept samples is replaced.
        leakage: "required" refuses to build without a reference.
        leakage_threshold: cosine from which a sample or a centre is leaked; `calibrate_leakage_threshold` finds one.
        leakage_against: "samples" of the reference, "centres" of its identities, or "both".
        check_source: whether samples and identities of the source that leak are left out; otherwise their similarity is
            only noted, and synthetic identities alone are held against the reference.
        separation_threshold: cosine from which a synthetic identity is too near to another identity of the set.
        identity_threshold: least cosine of a synthetic sample with its seed sample.
        copy_threshold: cosine from which a sample is a near copy of another of its identity; None to leave copies.
        synthetic_first: whether synthetic identities stand in front.
        max_tries: seed samples that are drawn for one synthetic identity.
        n_jobs: identities that are cleaned at a time.
        seed: of everything drawn; what comes out does not depend on `n_jobs`.

    Raises:
        ValueError: on a bad setting, by name.

    >>> def person(name, *angles):
    ...     return {f"{name}{k}": torch.tensor([angle, 1 - angle]) for k, angle in enumerate(angles)}
    >>> builder = IdentityDatasetBuilder(torch.stack, [ClusterCleaner(0.9)], min_count=2)
    >>> manifest = builder.build({"a": person("a", 1.0, 0.9, 0.0), "b": person("b", 0.0, 1.0)})
    >>> manifest.order, [row.verdict for row in manifest.rows]
    (('a',), ['kept', 'kept', 'outlier', 'outlier', 'outlier'])
    """

    @checked
    def __init__(
        self,
        embedder: Callable[[Sequence[Any]], Tensor],
        cleaners: Sequence[Cleaner] | None = None,
        augmenter: Callable[[Any, int], Any] | None = None,
        seed_generator: SeedGenerator | None = None,
        expander: Expander | None = None,
        reference: Float[Tensor, "m d"] | None = None,
        *,
        reference_identity: Integer[Tensor, " m"] | None = None,
        prompts: Callable[[int], str] | None = None,
        combine: CombineMode = "intersection",
        weights: Sequence[float] | None = None,
        bound: float | None = None,
        target_count: Count = 50,
        min_count: Count = 10,
        leakage: Literal["required", "if given"] = "if given",
        leakage_threshold: OpenFraction = 0.5,
        leakage_against: Against | None = None,
        check_source: bool = True,
        separation_threshold: OpenFraction = 0.5,
        identity_threshold: OpenFraction = 0.5,
        copy_threshold: OpenFraction | None = None,
        synthetic_first: bool = True,
        max_tries: Count = 20,
        n_jobs: Count = 1,
        seed: Whole = 0,
    ) -> None:
        if reference is None and leakage == "required":
            raise ValueError("reference is missing, and leakage='required'; give one, or say leakage='if given'")
        if reference is None and (reference_identity is not None or leakage_against is not None):
            raise ValueError("reference is missing, but reference_identity or leakage_against is given")
        if (seed_generator is None) != (expander is None):
            raise ValueError("seed_generator and expander belong together; give both or none")
        if min_count > target_count:
            raise ValueError(f"min_count={min_count} is above target_count={target_count}; lower it")
        self.embedder, self.augmenter, self.seed_generator, self.expander = (
            embedder,
            augmenter,
            seed_generator,
            expander,
        )
        self.cleaners = (ClusterCleaner(),) if cleaners is None else tuple(cleaners)
        names = unique_samples("cleaners", [cleaner.name for cleaner in self.cleaners])
        if names:
            # A mode that does not fit shows before anything is embedded.
            combine_cleaners([], *([] for _ in names), mode=combine, weights=weights, bound=bound)
        against: Against = leakage_against or ("samples" if reference_identity is None else "both")
        self._protected = (
            None if reference is None else ProtectedSet(reference, reference_identity, leakage_threshold, against)
        )
        self.check_source = check_source
        self._combine = partial(combine_cleaners, mode=combine, weights=weights, bound=bound)
        self.prompts = prompts or IdentityPrompts(["a person"])
        self.target_count, self.min_count, self.copy_threshold = target_count, min_count, copy_threshold
        self.separation_threshold, self.identity_threshold = separation_threshold, identity_threshold
        self.synthetic_first, self.max_tries, self.n_jobs, self.seed = synthetic_first, max_tries, n_jobs, seed
        self._settings = (combine, weights, bound, leakage_threshold, against)

    def build(
        self,
        source: Mapping[str, Samples],
        *,
        num_synthetic: int | None = None,
        sink: Sink | None = None,
        progress: str | Path | None = None,
        dry_run: bool = False,
    ) -> Manifest:
        """The data set as a list.

        Args:
            source: identity → its samples, each with a name that no other sample has.
            num_synthetic: synthetic identities to make; as many as are replaced by default.
            sink: is given the row and the value of every sample that was made and is kept, in order, from one thread.
                Without it they are kept in `Manifest.samples`.
            progress: a file that finished identities are written to. A build that stopped goes on from it if names in
                the source and settings are the same, which does not look into models and judges; needs a sink where
                samples are made.
            dry_run: only clean, and count what would be made.

        Raises:
            ValueError: if the source is empty or names repeat, embeddings cannot be used, or a judge names what it was
                not shown.
            RuntimeError: if no acceptable synthetic identity is found, with the counts of rejects.
        """
        if num_synthetic is not None and (num_synthetic := as_whole("num_synthetic", num_synthetic)) < 0:
            raise ValueError(f"num_synthetic={num_synthetic} must be at least 0")
        named = _named(source)
        making = not dry_run and (self.augmenter is not None or self.seed_generator is not None)
        if progress is not None and making and sink is None:
            raise ValueError("progress needs a sink where samples are made, or those of a stopped build were lost")
        if num_synthetic and self.seed_generator is None:
            raise ValueError(f"num_synthetic={num_synthetic} needs seed_generator and expander")
        samples: dict[str, Any] = {}
        take = sink or (lambda row, sample: samples.__setitem__(row.sample, sample))
        state = ProgressFile(progress, self._state(named, dry_run)) if progress is not None else None
        finished: dict[str, Finished] = {} if state is None else dict(state.finished)
        missing = [name for name in named if name not in finished]
        for name, found, made in self._cleaned({name: named[name] for name in missing}, dry_run):
            _hand_over(found.rows, made, take)
            finished[name] = found
            if state is not None:
                state.write(name, found)
        counts = {name: sum(row.kept for row in finished[name].rows) for name in named}
        small = [name for name in named if not counts[name]]
        wanted = (len(small) if num_synthetic is None else num_synthetic) if self.seed_generator is not None else 0
        fresh = [f"synthetic-{k}" for k in range(wanted)]
        taken = [name for name in fresh if name in named]
        if taken:
            raise ValueError(f"source holds an identity {taken[0]!r}, a name that synthetic identities get; rename it")
        centres = [found.centre for name in named if counts[name] and (found := finished[name]).centre is not None]
        rejects: Counter[str] = Counter()
        if not dry_run:
            self._synthesise(fresh, centres, finished, rejects, take, state)
        originals = [name for name in named if counts[name]]
        new = [] if dry_run else fresh
        order = [*new, *originals] if self.synthetic_first else [*originals, *new]
        rows = [row for name in [*named, *new] for row in finished[name].rows]
        needed = self._needed(finished, originals, wanted) if dry_run else {}
        return Manifest(tuple(rows), tuple(order), dict(rejects), samples, needed)

    def _embed(self, samples: Sequence[Any]) -> Tensor:
        return checked_embeddings(self.embedder(samples), len(samples)).double()

    def _cleaned(
        self, named: Mapping[str, list[tuple[str, Any]]], dry_run: bool
    ) -> Iterator[tuple[str, Finished, dict[str, Any]]]:
        """Identities of the source with what was made of them, in order; a chunk of them at a time."""
        names = list(named)
        with ThreadPoolExecutor(self.n_jobs) as pool:

            def mapped(function: Callable[..., Any], *each: Any) -> list[Any]:
                return list(map(function, *each) if self.n_jobs == 1 else pool.map(function, *each))

            def clean(name: str) -> CleanedIdentity:
                given = (self._embed, self.cleaners, self._combine, self.copy_threshold)
                return clean_identity(name, named[name], *given)

            for start in range(0, len(names), _CHUNK):
                chunk = mapped(clean, names[start : start + _CHUNK])
                self._leave_out(chunk)
                made = mapped(partial(self._filled_up, dry_run=dry_run), chunk)
                for one, more in zip(chunk, self._without_leaks(made), strict=True):
                    rows = (*one.rows, *(row for row, _ in more))
                    yield one.name, Finished(rows, one.centre), {row.sample: sample for row, sample in more}

    def _leave_out(self, chunk: Sequence[CleanedIdentity]) -> None:
        """What leaks, what is beyond the target, and identities that are too small or leak as a whole."""
        protected = self._protected
        if protected is not None:
            near = protected.check(torch.cat([one.unit for one in chunk]))
            ends = np.cumsum([0, *(len(one.unit) for one in chunk)])
            for one, start, end in zip(chunk, ends, ends[1:], strict=False):
                part = LeakageCheck(*(column[start:end] for column in near))
                one.note_leaks(part, protected.threshold, reject=self.check_source)
                one.find_centre()
        for one in chunk:
            if len(one.kept) < self.min_count:
                one.reject_all("identity too small", f"{len(one.kept)} of {self.min_count} samples are left")
                continue
            one.keep_most_central(self.target_count)
            one.find_centre()
            if protected is None or one.centre is None or not self.check_source:
                continue
            whole = protected.check(one.centre[None])
            if bool(whole.leaked[0]):
                most = float(whole.max_similarity[0])
                one.reject_all("identity leaked", f"centre with cosine {most:.3f} to reference {int(whole.nearest[0])}")

    def _filled_up(self, one: CleanedIdentity, dry_run: bool) -> list[tuple[ManifestRow, Any]]:
        """Augmented samples up to the target."""
        kept = one.kept
        if dry_run or self.augmenter is None or not kept:
            return []
        generator = np.random.default_rng(derived_seed(self.seed, "pick", one.name))
        made = []
        for k in range(self.target_count - len(kept)):
            origin = kept[generator.integers(len(kept))]
            seed = derived_seed(self.seed, "augmented", one.name, k)
            row = ManifestRow(f"{one.name}/augmented-{k}", one.name, "augmented", seed=seed)
            made.append((row, origin, self.augmenter(one.samples[origin], seed)))
        if not made:
            return []
        unit = torch.nn.functional.normalize(self._embed([sample for _, _, sample in made]), dim=1)
        near = similarities(unit, one.centre)
        return [
            (replace(row, centroid_similarity=near[k], origin=one.rows[origin].sample), (sample, unit[k]))
            for k, (row, origin, sample) in enumerate(made)
        ]

    def _without_leaks(self, made: Sequence[list[tuple[ManifestRow, Any]]]) -> list[list[tuple[ManifestRow, Any]]]:
        """Augmented samples with their nearest protected rows; those that are too near are not kept."""
        units = [unit for more in made for _, (_, unit) in more]
        if self._protected is None or not units:
            return [[(row, sample) for row, (sample, _) in more] for more in made]
        near = self._protected.check(torch.stack(units))
        place = iter(range(len(units)))
        found = []
        for more in made:
            checked_rows = []
            for row, (sample, _) in more:
                k = next(place)
                most, number = float(near.max_similarity[k]), int(near.nearest[k])
                row = replace(row, reference_similarity=most, nearest_reference=number)
                if self.check_source and bool(near.leaked[k]):
                    row = replace(row, verdict="leaked", reason=f"cosine {most:.3f} with reference {number}")
                checked_rows.append((row, sample))
            found.append(checked_rows)
        return found

    def _synthesise(
        self,
        names: Sequence[str],
        centres: list[Tensor],
        finished: dict[str, Finished],
        rejects: Counter[str],
        take: Sink,
        state: ProgressFile | None,
    ) -> None:
        """Synthetic identities, one after the other, for each must be apart from those before it."""
        if not names or self.seed_generator is None or self.expander is None:
            return
        making = IdentitySynthesis(
            self._embed,
            self.seed_generator,
            self.expander,
            self.prompts,
            self._protected,
            self.separation_threshold,
            self.identity_threshold,
            self.target_count,
            self.min_count,
            self.max_tries,
            self.seed,
        )
        others = torch.stack(centres) if centres else None
        for name in names:
            if name not in finished:
                again: Counter[str] = Counter()
                made = making.make(name, others, again)
                found = Finished(made.rows, made.centre, dict(again))
                for row, sample in zip(made.rows, made.samples, strict=True):
                    take(row, sample)
                finished[name] = found
                if state is not None:
                    state.write(name, found)
            rejects.update(finished[name].rejects)
            centre = finished[name].centre
            if centre is not None:
                others = centre[None] if others is None else torch.cat([others, centre[None]])

    def _needed(self, finished: Mapping[str, Finished], originals: Sequence[str], synthetic: int) -> dict[str, int]:
        kept = [sum(row.kept for row in finished[name].rows) for name in originals]
        short = sum(max(self.target_count - count, 0) for count in kept) if self.augmenter is not None else 0
        return {"augmented samples": short, "synthetic identities": synthetic}

    def _state(self, named: Mapping[str, list[tuple[str, Any]]], dry_run: bool) -> str:
        """What a stopped build must share with the one that takes it up; models and judges cannot be compared."""
        names = {name: [sample for sample, _ in given] for name, given in named.items()}
        plain = (bool, int, float, str, type(None))
        held = {name: value for name, value in vars(self).items() if isinstance(value, plain) and name != "n_jobs"}
        cleaners = [(each.name, each.get_params() if isinstance(each, HasSettings) else None) for each in self.cleaners]
        making = self.augmenter is not None, self.seed_generator is not None, dry_run
        protected = None if self._protected is None else (self._protected.rows, self._protected.number)
        return fingerprint(names, held, cleaners, making, protected, self._settings)


def _hand_over(rows: Sequence[ManifestRow], made: Mapping[str, Any], take: Sink) -> None:
    for row in rows:
        if row.kept and row.sample in made:
            take(row, made[row.sample])


def _named(source: Mapping[str, Samples]) -> dict[str, list[tuple[str, Any]]]:
    """The source as lists, every sample's name used once."""
    if not isinstance(source, Mapping):
        raise ValueError(f"source must be a mapping from identities to samples, got {type(source).__name__}")
    if not source:
        raise ValueError("source is empty; there is no identity to build from")
    named = {}
    for identity, given in source.items():
        pairs = given.items() if isinstance(given, Mapping) else given
        if str(identity) in named:
            raise ValueError(f"source holds two identities that read {str(identity)!r}; rename one of them")
        named[str(identity)] = [(str(name), sample) for name, sample in pairs]
    unique_samples("source samples", [name for given in named.values() for name, _ in given])
    empty = [identity for identity, given in named.items() if not given]
    if empty:
        raise ValueError(f"source identity {empty[0]!r} has no sample; leave it out")
    return named
