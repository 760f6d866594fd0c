"""A scripted teacher whose bridges and gardens are known, for studies of how students are distilled.

A text over 64 tokens follows a script of fixed positions (one token), bridges and gardens:

    bridge   4 clean tokens, the main one with probability 0.98, less 0.01 for each bridge before it but not below 0.94;
             any other token enters a violation, which nothing leaves and which has a distribution of its own
    garden   8 tokens with softmax(0, ..., −2.5); which one is written is the style, which only permutes later gardens

All distributions are exact, and so are a student's divergences and risks (`kappa_tabular` takes the tables). Students
are judged by plain divergences and know nothing of these roles.

"The Bridge-Garden Dilemma in LLM Distillation: Why Mixing Hard and Soft Labels Works", ICML 2026, arXiv 2605.26246, by
a description of its code. Reconstructed: the order of positions in a script, that the other clean tokens are equally
likely, that tokens off the list leave a fixed position or a garden as any other does, the distribution of violations.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from equipoise.core.signature import checked
from equipoise.core.token_divergence.families import DivergenceName, TokenDivergence, resolve_divergence
from equipoise.core.types import Count, Whole
from equipoise.language.exposure.rollouts import LanguageModel, Rollouts, roll_out, uniforms
from equipoise.language.exposure.tabular_model import TabularLanguageModel

Script: TypeAlias = Literal["code", "math", "dialogue"]
Role: TypeAlias = Literal["fixed", "bridge", "garden", "violation"]

ROLES: tuple[Role, ...] = ("fixed", "bridge", "garden", "violation")
_VOCABULARY, _CLEAN, _GARDEN, _VIOLATION = 64, 4, 8, 16
_SCRIPTS: dict[Script, tuple[str, int]] = {"code": ("fbffbg", 47), "math": ("fbfg", 43), "dialogue": ("fgfbg", 35)}


class OracleReport(NamedTuple):
    """How a student does in a scripted world, as means per token in nats.

    Attributes:
        teacher_forced: divergence on the teacher's texts.
        student_rollout: divergence on the student's own.
        exposure_bias: the second minus the first.
        bridge_exposure_bias: the same at bridges only, those of texts that are not in a violation.
        garden_exposure_bias: at gardens only.
        clean: share of the student's texts without a violation.
    """

    teacher_forced: float
    student_rollout: float
    exposure_bias: float
    bridge_exposure_bias: float
    garden_exposure_bias: float
    clean: float


class ScriptedOracle(TabularLanguageModel):
    """A scripted teacher, as a causal language model over 64 tokens of which 0 is the start token.

    Args:
        script: "code" (47 tokens, most bridges), "math" (43) or "dialogue" (35, most gardens).
        seed: which tokens stand where.

    Attributes:
        length: tokens of a text, without the start token.
        roles: (S,) number of each state's role in `ROLES`.

    >>> oracle = ScriptedOracle("dialogue")
    >>> oracle.sample(100, oracle.length).shape
    torch.Size([100, 36])
    >>> report = oracle.evaluate(oracle)  # its own student
    >>> report.exposure_bias, report.clean
    (0.0, 1.0)
    """

    roles: Tensor

    @checked
    def __init__(self, script: Script = "code", *, seed: Whole = 0) -> None:
        pattern, length = _SCRIPTS[script]
        kinds = (pattern * length)[:length]
        probs, following, roles = _tables(kinds, torch.Generator().manual_seed(seed))
        super().__init__(probs, following)
        self.length = length
        self.register_buffer("roles", roles)

    def role(self, name: Role) -> Tensor:
        """(S,) whether each state has a role."""
        return self.roles == ROLES.index(name)

    @checked
    def evaluate(
        self,
        student: LanguageModel,
        *,
        n_rollouts: Count = 50,
        divergence: DivergenceName | TokenDivergence = "forward_kl",
        seed: Whole = 0,
    ) -> OracleReport:
        """How a student does, on texts of this teacher and on its own.

        Args:
            student: any callable from token ids (rows, time) to logits (rows, time, 64), of which the first is 0.
            n_rollouts: texts of each.
            divergence: D(teacher‖student), as in `token_divergence_loss`.
            seed: of the texts.

        Returns:
            The report. A role that no text meets has NaN.
        """
        device = self.probs.device
        start = torch.zeros(n_rollouts, 1, dtype=torch.long, device=device)
        uniform = uniforms(n_rollouts, self.length, seed, device=device)
        losses, states = [], []
        for writer in ("teacher", "student"):
            written: Rollouts = roll_out(
                self,
                student,
                start,
                uniform,
                writer=writer,
                divergence=resolve_divergence(divergence),
            )
            losses.append(written.losses)
            states.append(self.states(torch.cat([start, written.tokens[:, :-1]], 1)))
        everywhere = torch.ones_like(self.roles, dtype=torch.bool)

        def mean(side: int, wanted: Tensor) -> float:
            return float(losses[side][wanted[states[side]]].mean())

        def bias(wanted: Tensor) -> float:
            return mean(1, wanted) - mean(0, wanted)

        violated = self.role("violation")[states[1]].any(1)
        return OracleReport(
            mean(0, everywhere),
            mean(1, everywhere),
            bias(everywhere),
            bias(self.role("bridge")),
            bias(self.role("garden")),
            1 - float(violated.double().mean()),
        )


def _tables(kinds: str, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(S, A) probabilities, (S, A) next states and (S,) roles: a state is a position and a style, or a violation."""
    length = len(kinds)
    states = length * (_GARDEN + 1)
    probs = torch.zeros(states, _VOCABULARY, dtype=torch.float64)
    following = torch.full((states, _VOCABULARY), -1)
    roles = torch.full((states,), ROLES.index("violation"))
    liked = torch.linspace(0, -2.5, _GARDEN, dtype=torch.float64).softmax(0)
    broken = torch.linspace(0, -2.5, _VIOLATION, dtype=torch.float64).softmax(0)
    broken_tokens = _tokens(_VIOLATION, generator)
    bridges = 0
    for position, kind in enumerate(kinds):
        last = position + 1 == length
        clean = [position * (_GARDEN + 1) + style for style in range(_GARDEN)]
        violation = clean[-1] + 1
        step = 0 if last else _GARDEN + 1
        probs[violation, broken_tokens] = broken
        if not last:
            following[violation] = violation + step
        tokens = _tokens({"f": 1, "b": _CLEAN, "g": _GARDEN}[kind], generator)
        main = max(0.94, 0.98 - 0.01 * bridges)
        bridges += kind == "b"
        for style, state in enumerate(clean):
            roles[state] = "fbg".index(kind)
            if not last:
                following[state] = state + step
            if kind == "f":
                probs[state, tokens] = 1
            elif kind == "b":
                probs[state, tokens] = (1 - main) / (_CLEAN - 1)
                probs[state, tokens[0]] = main
                if not last:
                    following[state] = violation + step
                    following[state, tokens] = state + step
            else:
                probs[state, tokens] = liked.roll(style)
                if not last:
                    following[state, tokens] = torch.tensor(clean) + step
    return probs, following, roles


def _tokens(number: int, generator: torch.Generator) -> Tensor:
    """Distinct tokens, none of them the start token."""
    return torch.randperm(_VOCABULARY - 1, generator=generator)[:number] + 1
