import pytest
import torch

from equipoise.multimodal import NegativeBank


def _rows(start, n):
    identity = torch.arange(start, start + n)
    return identity[:, None] * torch.ones(2), -identity[:, None] * torch.ones(2), identity


def test_it_keeps_the_latest_rows():
    bank = NegativeBank(4, 2)
    assert bank.negatives() is None
    for start, n in ((0, 3), (3, 3), (6, 1)):
        bank.push(*_rows(start, n))
    held = bank.negatives()
    assert sorted(held.identity.tolist()) == [3, 4, 5, 6]
    torch.testing.assert_close(held.first, held.identity[:, None] * torch.ones(2))
    torch.testing.assert_close(held.second, -held.first)


def test_a_batch_larger_than_the_bank_leaves_its_last_rows():
    bank = NegativeBank(3, 2)
    bank.push(*_rows(0, 8))
    assert sorted(bank.negatives().identity.tolist()) == [5, 6, 7]
    bank.push(*_rows(8, 1))
    assert sorted(bank.negatives().identity.tolist()) == [6, 7, 8]


def test_what_was_given_is_not_written_over_and_holds_no_graph():
    bank = NegativeBank(2, 2)
    first, second, identity = _rows(1, 2)
    bank.push(first.requires_grad_(), second, identity)
    before = bank.negatives()
    assert not before.first.requires_grad
    bank.push(*_rows(7, 2))
    assert before.identity.tolist() == [1, 2]


def test_a_state_goes_on_where_it_was():
    bank, other = NegativeBank(4, 2), NegativeBank(4, 2)
    bank.push(*_rows(0, 3))
    other.load_state_dict(bank.state_dict())
    for each in (bank, other):
        each.push(*_rows(3, 3))
    assert bank.negatives().identity.tolist() == other.negatives().identity.tolist()


@pytest.mark.usefixtures("plain_inputs")
def test_rows_of_another_width_are_refused():
    with pytest.raises(ValueError, match="first has 3 columns, those of the bank have 2"):
        NegativeBank(4, 2).push(torch.zeros(1, 3), torch.zeros(1, 3), torch.tensor([0]))
