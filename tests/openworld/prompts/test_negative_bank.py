import pytest
import torch
from torch.nn.functional import normalize

from equipoise.core.models.two_tower import encode_texts
from equipoise.openworld.prompts.negative_bank import NegativeBank, TextualInverter, update_negative_bank
from word_tower import WordSum


def _brute_update(bank, new, base, capacity):
    entries = [(-float(d), 1, k) for k, d in enumerate(bank)]
    accepted = []
    for k, row in enumerate(new.tolist()):
        if all(s < b for s, b in zip(row, base.tolist(), strict=True)):
            accepted.append(k)
            entries.append((-sum(b - s for s, b in zip(row, base.tolist(), strict=True)) / len(base), 0, k))
    # Sorted by deviation only, so that older entries go first among equals.
    return accepted, sorted(entries, key=lambda entry: entry[0])[:capacity]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("capacity", [0, 1, 5, 50])
def test_an_update_is_that_of_a_loop(seed, capacity):
    g = torch.Generator().manual_seed(seed)
    # Eighths are exact, so that ties are ties.
    bank = torch.randint(0, 8, (seed,), generator=g).double() / 8
    new = torch.randint(-8, 8, (12, 2), generator=g).double() / 8
    base = torch.tensor([0.5, 0.75], dtype=torch.float64)
    accepted, entries = _brute_update(bank, new, base, capacity)
    found = update_negative_bank(bank, new, base, capacity)
    assert found.accepted.tolist() == accepted
    assert found.deviation.tolist() == [-d for d, _, _ in entries]
    assert found.from_bank.tolist() == [bool(old) for _, old, _ in entries]
    assert found.source_index.tolist() == [k for _, _, k in entries]


def test_a_row_as_near_as_the_class_text_does_not_pass():
    found = update_negative_bank(torch.zeros(0), torch.tensor([[0.5, -1.0]]), torch.tensor([0.5, 0.5]), 3)
    assert len(found.accepted) == len(found.deviation) == 0


def test_nothing_new_leaves_a_sorted_bank():
    found = update_negative_bank(torch.tensor([0.1, 0.3]), torch.zeros(0, 2), torch.ones(2), 3)
    assert found.source_index.tolist() == [1, 0]


def test_a_bank_holds_the_best_of_all_that_came():
    g = torch.Generator().manual_seed(0)
    text, images, new = (torch.randn(n, 5, generator=g) for n in (3, 3, 60))
    images = text + 0.3 * images
    bank = NegativeBank(text, images, 7)
    for batch in new.split(9):
        bank.add(batch)
    v, e = normalize(images, dim=1), normalize(new, dim=1)
    base = (normalize(text, dim=1) * v).sum(1)
    similarity = e @ v.T
    passed = (similarity < base).all(1)
    order = torch.sort((base - similarity).mean(1).where(passed, -torch.inf), descending=True).indices[:7]
    torch.testing.assert_close(bank.embeddings, e[order])
    torch.testing.assert_close(bank.deviation, (base - similarity).mean(1)[order])
    assert len(bank) == 7
    bank.reset()
    assert len(bank) == 0


def test_a_bank_travels_in_its_state_dict():
    eye = torch.eye(4)
    bank, copy = NegativeBank(eye[:2], eye[:2], 3), NegativeBank(eye[2:], eye[2:], 3)
    bank.add(eye[2:3])
    copy.load_state_dict(bank.state_dict())
    copy.add(eye[3:])
    assert torch.equal(copy.embeddings, eye[2:])
    assert len(bank) == 1


def test_a_bank_without_room_stays_empty():
    eye = torch.eye(3)
    bank = NegativeBank(eye[:2], eye[:2], 0)
    bank.add(eye[2:])
    assert bank.embeddings.shape == (0, 3)


_FORMS = ("a photo of {}", "{}", "one {} here")


def test_inversion_turns_words_towards_images():
    tower = WordSum()
    images = encode_texts(tower, ["a photo of fox", "a photo of stone"]).detach() * 4
    cosines = [
        TextualInverter(tower, _FORMS[:1], steps=steps, lr=0.1)(
            images, torch.Generator().manual_seed(1)
        ).similarity.mean()
        for steps in (0, 10, 60)
    ]
    assert cosines[0] < cosines[1] < cosines[2]
    assert cosines[2] > 0.7


def test_inversion_returns_unit_texts_and_gives_the_tower_no_gradients():
    tower = WordSum()
    images = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found = TextualInverter(tower, _FORMS)(images.clone(), torch.Generator().manual_seed(1))
    assert tower.words.grad is None
    assert not found.embeddings.requires_grad
    torch.testing.assert_close(found.embeddings.norm(dim=1), torch.ones(4))
    cosine = (found.embeddings * normalize(images, dim=1)).sum(1)
    torch.testing.assert_close(found.similarity, cosine)


def test_images_do_not_mix_in_an_inversion():
    images = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    changed = torch.cat([images[:2], -images[2:]])
    inverter = TextualInverter(WordSum(), _FORMS)
    one, other = (inverter(x, torch.Generator().manual_seed(4)).embeddings for x in (images, changed))
    torch.testing.assert_close(one[:2], other[:2])
    assert not torch.allclose(one[2], other[2], atol=1e-3)


def test_inversion_is_its_own_random_numbers_only():
    images, before = torch.ones(2, 8), torch.random.get_rng_state()
    inverter = TextualInverter(WordSum(), _FORMS)
    one, again, other = (inverter(images, torch.Generator().manual_seed(s)).embeddings for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_one_template_and_plain_steps_are_the_written_recipe():
    tower, images = WordSum(), normalize(torch.ones(1, 8), dim=1)
    word = (0.02 * torch.randn(1, 1, 6, generator=torch.Generator().manual_seed(3))).requires_grad_()
    optimizer = torch.optim.AdamW([word], lr=2e-2, weight_decay=0.01)
    ids = torch.tensor([[0, *tower.word_ids("a photo of"), tower.start_token, 1]])

    def text():
        vectors = tower.words[ids].detach()
        return normalize(tower.encode_text(ids, torch.cat([vectors[:, :4], word, vectors[:, 5:]], 1)), dim=1)

    for _ in range(10):
        optimizer.zero_grad()
        (1 - (text() * images).sum(1)).mean().backward()
        optimizer.step()
    found = TextualInverter(tower, ("a photo of {}",))(images, torch.Generator().manual_seed(3))
    torch.testing.assert_close(found.embeddings, text().detach())


def test_what_is_not_finite_is_dropped_and_the_rest_kept():
    class Breaks(WordSum):
        def encode_text(self, ids, embeddings=None):
            found = super().encode_text(ids, embeddings)
            return found * torch.tensor([[1.0], [torch.nan], [1.0]])

    images = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    broken, whole = (
        TextualInverter(t, _FORMS)(images, torch.Generator().manual_seed(0)) for t in (Breaks(), WordSum())
    )
    assert broken.kept.tolist() == [0, 2]
    torch.testing.assert_close(broken.embeddings, whole.embeddings[[0, 2]])


def test_no_image_gives_no_text():
    found = TextualInverter(WordSum(), _FORMS)(torch.zeros(0, 8))
    assert found.embeddings.shape == (0, 8)
    assert len(found.kept) == len(found.similarity) == 0


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    eye = torch.eye(3)
    with pytest.raises(ValueError, match=r"\(new, 3\)"):
        NegativeBank(eye, eye, 1).add(torch.ones(1, 4))
    with pytest.raises(ValueError, match="row 0 of embeddings"):
        NegativeBank(eye, eye, 1).add(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="no place"):
        TextualInverter(WordSum(), ("no place",))
    with pytest.raises(ValueError, match="reads 12"):
        TextualInverter(WordSum(), ("a b c d e f g h i j k {}",))
    with pytest.raises(ValueError, match="row 1 of image_features"):
        TextualInverter(WordSum(), _FORMS)(torch.tensor([[1.0] * 8, [0.0] * 8]))
