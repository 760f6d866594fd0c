"""What holds for every model: one score whichever way it is asked for, exact ties, finite gradients, state."""

import io

import pytest
import torch

from equipoise.knowledge import GIE, MODELS, TransE, build_model
from equipoise.knowledge.geometry import pairs
from equipoise.knowledge.models.ties import first_equal

N, M, D = 13, 3, 4
COUNT = 14
BUILDS = {
    **{name: lambda name=name, **options: build_model(name, N, M, D, **options) for name in MODELS},
    "transe in the 1-norm": lambda **options: TransE(N, M, D, 1, **options),
    "gie of two sides": lambda **options: GIE(N, M, D, two_sided=True, **options),
    "gie of one shared curvature": lambda **options: GIE(N, M, D, curvature="shared", **options),
    "gie of the sphere without biases": lambda **options: GIE(
        N, M, D, ("spherical",), curvature="fixed", bias=False, **options
    ),
    "murp of each relation": lambda **options: build_model("murp", N, M, D, curvature="relation", **options),
}
every_model = pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)


def _shaken(model, scale=0.4, dtype=torch.float64, seed=3):
    """The model with parameters large enough that every term counts."""
    generator = torch.Generator().manual_seed(seed)
    model = model.to(dtype)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn(each.shape, generator=generator, dtype=dtype) * scale)
    return model


def _triples():
    index = torch.arange(COUNT)
    return torch.stack((index * 5 % N, index % (2 * M), index * 7 % N), 1)


@every_model
def test_a_triple_has_one_score_whichever_way_it_is_asked_for(build, monkeypatch):
    model, triples = _shaken(build()), _triples()
    heads, relations, tails = triples.unbind(1)
    whole = model.score_t(heads, relations)
    assert whole.shape == (COUNT, N)
    scores = model.score_hrt(triples)
    torch.testing.assert_close(scores, whole[torch.arange(COUNT), tails])
    torch.testing.assert_close(model(triples), scores)
    query = model.query(model.rows(heads), relations)
    some = torch.arange(COUNT)[:, None] * 3 % N + torch.zeros(1, 5, dtype=torch.long)
    torch.testing.assert_close(model.compare(query, model.rows(some)), whole.gather(1, some))
    torch.testing.assert_close(model.compare(query, model.rows(torch.tensor([4, 2]))), whole[:, [4, 2]])
    torch.testing.assert_close(torch.stack([model.score_hrt(each[None])[0] for each in triples]), scores)
    inverse = model.inverse(relations)
    assert torch.equal(model.score_h(relations, tails), model.score_t(tails, inverse))
    assert torch.equal(model.inverse(inverse), relations)
    monkeypatch.setattr(pairs, "_BLOCK", 7)
    torch.testing.assert_close(model.score_t(heads, relations), whole)
    with torch.no_grad():
        torch.testing.assert_close(model.score_t(heads, relations), whole)


@every_model
def test_gradients_of_all_tails_are_those_of_triples_also_in_blocks(build, monkeypatch):
    model, triples = _shaken(build()), _triples()
    triples = torch.cat((triples, triples[:3]))
    heads, relations, tails = triples.unbind(1)
    table = [each for each in model.parameters() if each.requires_grad]
    weights = torch.linspace(-1, 1, len(triples), dtype=torch.float64)
    wanted = torch.autograd.grad((model.score_hrt(triples) * weights).sum(), table, allow_unused=True)
    for block in (pairs._BLOCK, 7):
        monkeypatch.setattr(pairs, "_BLOCK", block)
        scores = model.score_t(heads, relations)[torch.arange(len(triples)), tails]
        found = torch.autograd.grad((scores * weights).sum(), table, allow_unused=True)
        for one, two in zip(found, wanted, strict=True):
            assert (one is None) == (two is None)
            if one is not None:
                torch.testing.assert_close(one, two, rtol=1e-7, atol=1e-9)


@every_model
def test_gradients_are_those_of_finite_differences(build):
    model = _shaken(build())
    triples = torch.tensor([[0, 0, 1], [1, 4, 2], [3, 2, 3]])
    names = [name for name, each in model.named_parameters() if each.requires_grad]
    leaves = [model.get_parameter(name).detach().requires_grad_() for name in names]

    def score(*given):
        return torch.func.functional_call(model, dict(zip(names, given, strict=True)), (triples,))

    assert torch.autograd.gradcheck(score, leaves, fast_mode=True)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_have_exactly_equal_scores(build, dtype):
    """In every place of the table: kernels of a product treat the last rows otherwise than the first."""
    generator = torch.Generator().manual_seed(5)
    for width in (1, 2, 5):
        model = _shaken(build(), dtype=dtype)
        with torch.no_grad():
            copies = torch.randint(N, (N,), generator=generator)
            copies[[0, N - 1]] = 6
            for name in model.tail_tables:
                table = model.get_parameter(name)
                table.copy_(table[copies])
        heads, relations = torch.arange(width) % N, torch.arange(width) % (2 * M)
        with torch.no_grad():
            scores = model.score_t(heads, relations)
        for j in range(N):
            assert torch.equal(scores[:, j], scores[:, copies.tolist().index(int(copies[j]))])


def test_the_first_equal_row_is_found_and_zeros_are_equal_whatever_their_sign():
    rows = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
    assert first_equal(rows).tolist() == [0, 1, 0, 1, 4]
    assert first_equal(rows.double()).tolist() == [0, 1, 0, 1, 4]
    assert first_equal(rows[3:]) is None
    many = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    assert first_equal(many) is None


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1.0, 1e4])
def test_scores_and_gradients_are_finite_at_zero_and_far_out(build, scale, dtype):
    model = build().to(dtype)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, each in model.named_parameters():
            size = min(scale, 30.0) if "curvature" in name else scale
            each.copy_(torch.randn(each.shape, generator=generator, dtype=dtype) * size)
    triples = torch.cat((_triples(), torch.tensor([[2, 1, 2]])))
    for found in (model.score_hrt(triples), model.score_t(*triples.unbind(1)[:2])):
        assert found.dtype == dtype
        assert found.isfinite().all()
        grads = torch.autograd.grad(found.sum(), [e for e in model.parameters() if e.requires_grad], allow_unused=True)
        assert all(each is None or bool(each.isfinite().all()) for each in grads)


@every_model
def test_the_state_is_kept_and_the_start_is_that_of_the_seed(build):
    model, triples = _shaken(build(), dtype=torch.float32), _triples()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = build()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(triples), model(triples))
    state = torch.random.get_rng_state()
    first, second, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name in first.entity_tables[:1]:
        assert torch.equal(first.get_parameter(name), second.get_parameter(name))
        assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    for name in model.entity_tables:
        assert model.get_parameter(name).shape[0] == N
    assert model.device == torch.device("cpu")


@every_model
def test_factors_are_of_the_shape_of_their_family(build):
    model, triples = _shaken(build()), _triples()
    heads, relations, tails = triples.unbind(1)
    found = model.factors(model.rows(heads), relations, model.rows(tails))
    width = found.head.shape[1]
    assert found.head.shape == found.tail.shape == (COUNT, width)
    relation = found.relation if found.index is None else found.relation[found.index]
    assert relation.shape == ((COUNT, width, width) if found.family == "matrix" else (COUNT, width))
    for each in (found.head, found.relation, found.tail):
        assert each.is_complex() == (found.family == "complex")
    assert found.head.requires_grad
    assert found.relation.requires_grad


@every_model
def test_ids_that_are_not_there_are_refused(build, plain_inputs):
    model = build()
    good, relation = torch.tensor([0]), torch.tensor([1])
    for bad in (-1, N):
        with pytest.raises(IndexError, match=f"entities hold the index {bad}, wanted 0 to {N - 1}"):
            model.score_t(torch.tensor([bad]), relation)
        with pytest.raises(IndexError, match=f"entities hold the index {bad}"):
            model.score_hrt(torch.tensor([[0, 0, bad]]))
    for bad in (-1, 2 * M):
        with pytest.raises(IndexError, match=f"relations hold the index {bad}, wanted 0 to {2 * M - 1}"):
            model.score_t(good, torch.tensor([bad]))
        with pytest.raises(IndexError, match="relations hold"):
            model.score_h(torch.tensor([bad]), good)
    with pytest.raises(ValueError, match="triples must have shape"):
        model.score_hrt(torch.tensor([[0, 1]]))
    with pytest.raises(ValueError, match="triples must hold integers"):
        model.score_hrt(torch.tensor([[0.0, 1.0, 2.0]]))
    assert model.score_hrt(torch.zeros(0, 3, dtype=torch.long)).shape == (0,)
    assert model.score_t(good[:0], relation[:0]).shape == (0, N)
    assert torch.equal(model.score_hrt(torch.tensor([[0, 1, 2]], dtype=torch.int32)), model(torch.tensor([[0, 1, 2]])))


@every_model
def test_autocast_changes_no_score(build):
    model, triples = _shaken(build(), dtype=torch.float32), _triples()
    heads, relations, _ = triples.unbind(1)
    wanted = model.score_t(heads, relations)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.score_t(heads, relations)
    torch.testing.assert_close(found, wanted)
