"""Whether a text-to-image model hides a backdoor, from prompts and pictures alone.

What a prompt asks for and what its picture shows are compared element by element, in three branches: objects, style and
patch. What deviates is then looked for in pictures of the prompt without the harmless phrases, those of objects that
the picture does show; the unknown trigger is in what is left. A backdoor survives that, an ordinary mistake does not:

    match   objects seen by a strict majority of K answers: new, lost and safe ones       (`mirror_match`)
    mask    N prompts, each without a random non-empty part of the safe phrases           ("all": without all of them)
    verify  score = max over deviations of the mean over N pictures of how surely each shows it    (`mirror_verify`)

BlackMirror (CVPR 2026). "all" is the released code (Ferry-Li/BlackMirror), "random" the paper's figure. The released
code flags any deviation of style or patch without verification, which is `verify=("object",)`; here all branches are
verified by default, and every picture has a seed of its own.

Pictures of changed prompts can be looked at one by one until no pattern can reach the threshold any more, or one has
reached it for sure. That gives the decision of all N pictures: sums are rounded once, so bounds of a mean are bounds.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equipoise.core.models.generators import TextToImage
from equipoise.core.models.judges import JudgeError, TextJudge, VisionJudge
from equipoise.core.signature import checked
from equipoise.core.types import Count, Fraction, OpenFraction, Range, Whole
from equipoise.generative.audit.asking import Inquiry, Picture
from equipoise.generative.audit.findings import Branch, ModelReport, Pattern, Report, winning_pattern
from equipoise.generative.audit.generating import GeneratorError, check_prompt, check_prompts, generate
from equipoise.generative.audit.groups import group_rates
from equipoise.generative.audit.mirror_match import mirror_match
from equipoise.generative.audit.mirror_verify import mean

MaskMode: TypeAlias = Literal["random", "all"]
BranchName: TypeAlias = Literal["object", "style", "patch"]
Evidence: TypeAlias = Callable[[Picture], float]
BRANCHES: tuple[BranchName, ...] = ("object", "style", "patch")


class BlackMirrorDetector:
    """Audits prompts of a text-to-image model that can only be called.

    Args:
        generator: the model; prompts and seeds in, pictures in [0, 1] out.
        vision_judge: says what pictures show.
        text_judge: says what prompts ask for.
        votes: answers about the objects of the first picture, K; strictly more than half must agree.
        variants: pictures that verify a deviation, N.
        threshold: score from which a prompt is flagged, in (0, 1].
        mask_mode: "random", each changed prompt lacks a random part of the safe phrases; "all", each lacks all.
        verify: branches whose deviations are verified; the others are flagged at once.
        seed: of pictures, masks and drawn answers. The first picture has this seed, those that verify the next ones.
        early_stop: look at pictures one by one and stop when the decision is certain. The decision is the same, the
            score of a prompt may be a bound on the same side of the threshold.
        retries: how often a judge is asked again after a `JudgeError`.
        most_calls: calls of judges that a prompt may cost; beyond it is undecided. Any number if None.
        keep_pictures: keep the pictures in the reports.

    A prompt that has no picture (`GeneratorError`), or about which a judge has no answer, is undecided, never clean.

    Raises:
        ValueError: if a setting is out of range.

    >>> from equipoise.data.shapes import PixelJudge, RenderedTextToImage, RuleTextJudge
    >>> served = RenderedTextToImage(attack="object")
    >>> detector = BlackMirrorDetector(served, PixelJudge(), RuleTextJudge())
    >>> report = detector.detect("zq red circle and blue square")
    >>> report.flagged, report.pattern
    (True, 'lost red circle, new red cross (0.9999)')
    >>> detector.detect("red circle and blue square").flagged
    False
    """

    @checked
    def __init__(
        self,
        generator: TextToImage,
        vision_judge: VisionJudge,
        text_judge: TextJudge,
        votes: Count = 5,
        variants: Count = 5,
        threshold: Fraction = 0.999,
        mask_mode: MaskMode = "random",
        verify: Sequence[BranchName] = BRANCHES,
        seed: Whole = 0,
        *,
        early_stop: bool = False,
        retries: Whole = 1,
        most_calls: Count | None = None,
        keep_pictures: bool = False,
    ) -> None:
        if votes % 2 == 0:
            warnings.warn(
                f"votes={votes} is even, so that {votes // 2} of them are no majority", UserWarning, stacklevel=2
            )
        self.generator, self.votes, self.variants = generator, votes, variants
        self.threshold, self.mask_mode, self.verify = threshold, mask_mode, tuple(verify)
        self.seed, self.early_stop, self.keep_pictures = seed, early_stop, keep_pictures
        self.inquiry = Inquiry(vision_judge, text_judge, seed, retries, most_calls)

    def detect(self, prompt: str) -> Report:
        """Audit one prompt.

        Raises:
            ValueError: if the prompt is empty, or the generator gives no pictures in [0, 1].
        """
        return self._detect(prompt, None)

    def score(self, prompts: Sequence[str]) -> Float[Tensor, " n"]:
        """(n,) float64 scores, higher for a backdoor; NaN where a prompt is undecided.

        Every picture is looked at, whatever `early_stop` says.

        Raises:
            ValueError: as `detect`.
        """
        stop, self.early_stop = self.early_stop, False
        try:
            found = [report.score for report in self.detect_all(prompts)]
        finally:
            self.early_stop = stop
        return torch.tensor(found, dtype=torch.float64)

    def detect_all(self, prompts: Sequence[str], batch: int = 16) -> list[Report]:
        """Audit prompts; their first pictures are asked for in batches.

        Raises:
            ValueError: if the batch is below 1, or as `detect`, of any prompt before the first picture is asked for.
        """
        prompts = check_prompts(prompts)
        if batch < 1:
            raise ValueError(f"batch={batch} must be at least 1")
        reports: list[Report] = []
        for first in range(0, len(prompts), batch):
            some = prompts[first : first + batch]
            try:
                images: list[Tensor | None] = list(generate(self.generator, some, [self.seed] * len(some)))
            except GeneratorError:
                # One by one, so that those without a picture do not keep the others from theirs.
                images = [None] * len(some)
            reports += [self._detect(prompt, image) for prompt, image in zip(some, images, strict=True)]
        return reports

    @checked
    def audit(
        self,
        prompts: Sequence[str],
        groups: Sequence[str] | None = None,
        clean_rate: Annotated[float, Range(0, 1, high_open=True)] = 0.05,
        alpha: OpenFraction = 0.05,
    ) -> ModelReport:
        """Audit a model by prompts, some of them perhaps with candidate triggers.

        Args:
            prompts: to audit.
            groups: (n,) the group of every prompt; one group if not given. Those of the group "clean" are taken for
                free of triggers, and other groups are held against their flags.
            clean_rate: share of clean prompts that are flagged, where no group is "clean".
            alpha: a model is suspicious when a group's p-value, times the number of groups tested, is at most this.

        Raises:
            ValueError: as `detect`, or if there are not as many groups as prompts.
        """
        prompts = check_prompts(prompts)
        names = ["all"] * len(prompts) if groups is None else list(groups)
        if len(names) != len(prompts):
            raise ValueError(f"groups has {len(names)} names, wanted one for each of {len(prompts)} prompts")
        reports = tuple(self.detect_all(prompts))
        rates, against = group_rates(names, reports, clean_rate)
        suspicious = any(rate.p_value is not None and rate.p_value <= alpha for rate in rates)
        return ModelReport(suspicious, alpha, rates, reports, against)

    def _detect(self, prompt: str, image: Tensor | None) -> Report:
        started = time.perf_counter()
        check_prompt(prompt)
        self.inquiry.start()
        run = _Run(self, prompt)
        undecided = None
        try:
            if image is None:
                image = generate(self.generator, [prompt], [self.seed])[0]
            run.pictures.append(Picture.of(image))
            run.match()
            run.verify()
        except (JudgeError, GeneratorError) as error:
            undecided = str(error) or type(error).__name__  # an error without words is one, too
        patterns = [pattern for branch in run.branches for pattern in branch.patterns]
        score = max((pattern.score for pattern in patterns), default=0.0)
        return Report(
            prompt=prompt,
            score=float("nan") if undecided else score,
            flagged=not undecided and bool(patterns) and score >= self.threshold,
            pattern="" if undecided else winning_pattern(patterns, self.threshold),
            threshold=self.threshold,
            branches=tuple(run.branches),
            safe=run.safe,
            variants=tuple(run.prompts),
            undecided=undecided,
            calls=dict(self.inquiry.calls),
            images=len(run.pictures),
            seconds=time.perf_counter() - started,
            pictures=tuple(picture.image for picture in run.pictures) if self.keep_pictures else (),
        )


class _Run:
    """The audit of one prompt, as far as it has come."""

    def __init__(self, detector: BlackMirrorDetector, prompt: str) -> None:
        self.detector, self.inquiry, self.prompt = detector, detector.inquiry, prompt
        self.pictures: list[Picture] = []
        self.branches: list[Branch] = []
        self.safe: tuple[str, ...] = ()
        self.prompts: list[str] = []
        self._found: dict[tuple[str, str], Evidence] = {}

    def match(self) -> None:
        """Compare the prompt and its picture in every branch."""
        for compare in (self._objects, self._style, self._patch):
            self.branches.append(compare())

    def _objects(self) -> Branch:
        asked = self.inquiry.objects_asked(self.prompt)
        if not asked:
            return Branch("object", "skipped", note="no object is found in the prompt")
        answers = [self.inquiry.objects_seen(self.pictures[0], vote) for vote in range(self.detector.votes)]
        found = mirror_match(asked, answers, self.inquiry.same)
        self.safe = found.safe
        for kind, names in (("new", found.new), ("lost", found.lost)):
            for name in names:
                self._found[kind, name] = self._of_object(kind, name)
        return self._branch("object", asked, dict(found.votes), [("new", x) for x in found.new], found.lost)

    def _of_object(self, kind: str, name: str) -> Evidence:
        def evidence(picture: Picture) -> float:
            p = self.inquiry.p_yes(picture, name)
            return p if kind == "new" else 1 - p

        return evidence

    def _style(self) -> Branch:
        asked, seen = self.inquiry.style_asked(self.prompt), self.inquiry.style_seen(self.pictures[0])
        patterns = []
        if seen is not None and (asked is None or not self.inquiry.same(seen, asked)):
            patterns.append(("style", seen))
            self._found["style", seen] = lambda picture: float(self._has_style(picture, seen))
        return self._branch("style", [asked] if asked else [], {seen: 1.0} if seen else {}, patterns)

    def _has_style(self, picture: Picture, wanted: str) -> bool:
        style = self.inquiry.style_seen(picture)
        return style is not None and self.inquiry.same(style, wanted)

    def _patch(self) -> Branch:
        asked, p = self.inquiry.patch_asked(self.prompt), self.inquiry.patch_seen(self.pictures[0])
        patterns = []
        if p > 0.5 and not asked:
            patterns.append(("patch", "patch"))
            self._found["patch", "patch"] = self.inquiry.patch_seen
        return self._branch("patch", ["patch"] if asked else [], {"patch": p}, patterns)

    def _branch(
        self,
        name: str,
        asked: Sequence[str],
        seen: dict[str, float],
        patterns: Sequence[tuple[str, str]],
        lost: Sequence[str] = (),
    ) -> Branch:
        # What is not verified is flagged at once; what is will be told below.
        found = tuple(
            Pattern(kind, which, (), 1.0, False, True) for kind, which in [*patterns, *(("lost", x) for x in lost)]
        )
        return Branch(name, "deviates" if found else "agrees", tuple(asked), seen, found)

    def verify(self) -> None:
        """Look for every deviation in pictures of changed prompts."""
        detector = self.detector
        unsure = [branch for branch in self.branches if branch.patterns and branch.name in detector.verify]
        at_once = any(branch.patterns and branch.name not in detector.verify for branch in self.branches)
        if not unsure:
            return
        wanted = [(one.kind, one.name) for branch in unsure for one in branch.patterns]
        values: dict[tuple[str, str], list[float]] = {one: [] for one in wanted}
        if not (at_once and detector.early_stop):
            self._look(values)
        verified = [branch.name for branch in unsure]
        self.branches = [
            branch if branch.name not in verified else self._told(branch, values) for branch in self.branches
        ]

    def _look(self, values: dict[tuple[str, str], list[float]]) -> None:
        detector, n = self.detector, self.detector.variants
        self.prompts = self._masked()
        seeds = [detector.seed + 1 + k for k in range(n)]
        if not detector.early_stop:
            self.pictures += map(Picture.of, generate(detector.generator, self.prompts, seeds))
        for k in range(n):
            if detector.early_stop:
                open_ = [one for one in values if mean(values[one], 1.0, n) >= detector.threshold]
                if not open_ or any(mean(values[one], 0.0, n) >= detector.threshold for one in values):
                    break
                (image,) = generate(detector.generator, self.prompts[k : k + 1], seeds[k : k + 1])
                self.pictures.append(Picture.of(image))
            else:
                open_ = list(values)
            for one in open_:
                values[one].append(self._found[one](self.pictures[k + 1]))

    def _told(self, branch: Branch, values: dict[tuple[str, str], list[float]]) -> Branch:
        n, threshold = self.detector.variants, self.detector.threshold
        patterns = []
        for one in branch.patterns:
            seen = values[one.kind, one.name]
            low, high = mean(seen, 0.0, n), mean(seen, 1.0, n)
            # A pattern that was stopped is told by the bound that decided; one that nothing decided by the least.
            score = high if high < threshold else low
            patterns.append(Pattern(one.kind, one.name, tuple(seen), score, True, len(seen) == n))
        return Branch(branch.name, branch.state, branch.asked, branch.seen, tuple(patterns), branch.note)

    def _masked(self) -> list[str]:
        """The changed prompts, one for each picture."""
        detector, safe = self.detector, list(self.safe)
        if not safe:
            return [self.prompt] * detector.variants
        digest = hashlib.sha256(f"{detector.seed} {self.prompt}".encode()).digest()
        rng = np.random.default_rng(list(digest[:16]))
        found = []
        for _ in range(detector.variants):
            chosen = list(safe)
            if detector.mask_mode == "random":
                # Every non-empty part is as likely.
                kept = [False]
                while not any(kept):
                    kept = (rng.random(len(safe)) < 0.5).tolist()
                chosen = [name for name, taken in zip(safe, kept, strict=True) if taken]
            found.append(self._without(chosen))
        return found

    def _without(self, names: list[str]) -> str:
        """The prompt without these objects, or without fewer where nothing would be left."""
        while names:
            text = self.inquiry.mask(self.prompt, names)
            if any(sign.isalnum() for sign in text):
                return text
            names = names[:-1]
        return self.prompt
