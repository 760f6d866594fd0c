"""Blocks of cosines: every pair once, the first of equal ones, and no row without a direction."""

import pytest
import torch

from equipoise.core.nearest import cosine_blocks, nearest_rows

BLOCKS = [(4096, 8192), (3, 4), (1, 1), (7, 2)]


def _rows(seed, n, d=5):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_nearest_row_is_that_of_the_whole_matrix(block):
    queries, reference = _rows(0, 23), _rows(1, 17)
    whole = torch.nn.functional.cosine_similarity(queries[:, None], reference[None], dim=2)
    found = nearest_rows(queries, reference, block=block)
    torch.testing.assert_close(found.similarity, whole.amax(1))
    assert found.row.tolist() == whole.argmax(1).tolist()


@pytest.mark.parametrize("block", BLOCKS)
def test_of_equal_rows_the_first_is_named(block):
    reference = torch.eye(3).repeat(4, 1)
    assert nearest_rows(torch.eye(3), reference, block=block).row.tolist() == [0, 1, 2]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("upper", [False, True])
def test_blocks_hold_every_pair_or_every_pair_above_the_diagonal(block, upper):
    rows = _rows(2, 11)
    found = torch.full((11, 11), torch.nan, dtype=torch.float64)
    for part in cosine_blocks(rows, rows, block=block, upper=upper):
        found[part.rows, part.columns] = part.cosines
    whole = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=2)
    wanted = whole.triu(1) if upper else whole
    torch.testing.assert_close(found.nan_to_num(0.0).triu(1) if upper else found, wanted)


def test_lengths_do_not_matter_and_dtypes_stay():
    queries, reference = _rows(0, 9).float(), _rows(1, 8).float()
    scaled = nearest_rows(1e4 * queries, 1e-4 * reference)
    assert scaled.similarity.dtype == torch.float32
    torch.testing.assert_close(scaled.similarity, nearest_rows(queries, reference).similarity)
    assert nearest_rows(queries.half(), reference).similarity.dtype == torch.float32
    assert nearest_rows(queries.double(), reference).similarity.dtype == torch.float64


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.0, "is zero"), (torch.nan, "holds NaN"), (torch.inf, "holds NaN"), (1e30, "has a norm that is out of range")],
)
def test_a_row_without_a_direction_is_named(value, words):
    rows = _rows(0, 9).float()
    rows[6] = value
    with pytest.raises(ValueError, match=f"row 6 of queries {words}"):
        nearest_rows(rows, _rows(1, 4).float(), block=(2, 2))
    with pytest.raises(ValueError, match=f"row 6 of reference {words}"):
        nearest_rows(_rows(1, 4).float(), rows, block=(2, 2))


def test_autocast_rounds_nothing():
    queries, reference = _rows(0, 9).float(), _rows(1, 8).float()
    wanted = nearest_rows(queries, reference).similarity
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nearest_rows(queries, reference).similarity.equal(wanted)
