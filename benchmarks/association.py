"""How fast modalities are matched: `python benchmarks/association.py [--quick]`.

The exact accuracy over all lists, from ranks, beside lists that are drawn: the usual protocol, one list a positive pair
and list length, written with one product.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

sys.path.insert(0, str(Path(__file__).parent))
from _timing import Row, medians, table

from equipoise.multimodal import gallery_matching_accuracy

_SIZES = tuple(range(2, 11))


def _problem(queries: int, samples: int = 2, dim: int = 128) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    identity = torch.arange(queries) // samples
    own = torch.randn(int(identity.max()) + 1, dim, generator=generator)[identity]
    face, voice = (own + 4 * torch.randn(own.shape, generator=generator) for _ in range(2))
    return face, voice, identity


def _drawn(face: Tensor, voice: Tensor, identity: Tensor, lists: int) -> dict[int, float]:
    """Accuracy on `lists` drawn lists of every positive pair, for every list length."""
    generator = torch.Generator().manual_seed(0)
    scores = normalize(face) @ normalize(voice).T
    row, column = (identity[:, None] == identity).nonzero(as_tuple=True)
    own, found = scores[row, column][:, None], {}
    for n in _SIZES:
        won = []
        for _ in range(lists):
            others = torch.randint(len(voice), (len(row), n - 1), generator=generator)
            # Who is drawn and of the same identity is drawn again.
            while bool((same := identity[others] == identity[row][:, None]).any()):
                others[same] = torch.randint(len(voice), (int(same.sum()),), generator=generator)
            won.append((own > scores[row[:, None], others]).all(1).double().mean())
        found[n] = float(torch.stack(won).mean())
    return found


def rows(quick: bool) -> list[Row]:
    """The exact accuracy beside drawn lists."""
    queries = 1000 if quick else 10_000
    face, voice, identity = _problem(queries)

    def exact() -> dict[str, Tensor]:
        return gallery_matching_accuracy(face, voice, identity, identity, n_way=_SIZES)

    truth = exact()
    found = []
    for lists in (1, 20):
        mine, theirs = medians(
            exact, lambda lists=lists: _drawn(face, voice, identity, lists), repeats=3 if quick else 5, seconds=60
        )
        error = max(abs(value - float(truth[f"1:{n}"])) for n, value in _drawn(face, voice, identity, lists).items())
        note = f"{mine:.3g} s beside {theirs:.3g} s, which is off by up to {error:.4f}"
        work = f"1:2 to 1:10 matching of {queries:,} queries, all lists"
        found.append(Row(work, f"{lists} drawn a positive pair", theirs / mine, note=note))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the queries")
    print(table(rows(parser.parse_args().quick)))


if __name__ == "__main__":
    main()
