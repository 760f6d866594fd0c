"""Bilinear models: their sums in loops, and what they are of each other."""

import pytest
import torch

from equipoise.knowledge import CP, RESCAL, ComplEx, DistMult, build_model, kg_score

N, M = 7, 2


def _drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _set(model, **tables):
    model.double()
    with torch.no_grad():
        for name, value in tables.items():
            model.get_parameter(name).copy_(value)
    return model


def _everything():
    index = torch.cartesian_prod(torch.arange(N), torch.arange(2 * M), torch.arange(N))
    return index, index.unbind(1)


def test_scores_are_sums_in_loops():
    index, (h, r, t) = _everything()
    entity, tail, relation, matrix = _drawn(N, 4), _drawn(N, 4, seed=1), _drawn(2 * M, 4, seed=2), _drawn(2 * M, 4, 4)
    found = {
        "distmult": _set(DistMult(N, M, 4), entity=entity, relation=relation)(index),
        "cp": _set(CP(N, M, 4), head=entity, tail=tail, relation=relation)(index),
        "complex": _set(ComplEx(N, M, 4), entity=entity, relation=relation)(index),
        "rescal": _set(RESCAL(N, M, 4), entity=entity, relation=matrix)(index),
    }
    found = {name: scores.detach() for name, scores in found.items()}
    for k, (a, b, c) in enumerate(index.tolist()):
        one, two, other, turn = (each.tolist() for each in (entity[a], entity[c], tail[c], relation[b]))
        real = sum(x * y * z for x, y, z in zip(one, turn, two, strict=True))
        assert float(found["distmult"][k]) == pytest.approx(real)
        assert float(found["cp"][k]) == pytest.approx(sum(x * y * z for x, y, z in zip(one, turn, other, strict=True)))
        numbers = [[complex(*each[i : i + 2]) for i in (0, 2)] for each in (one, turn, two)]
        whole = sum(x * y * z.conjugate() for x, y, z in zip(*numbers, strict=True))
        assert float(found["complex"][k]) == pytest.approx(whole.real)
        wanted = sum(one[i] * float(matrix[b, i, j]) * two[j] for i in range(4) for j in range(4))
        assert float(found["rescal"][k]) == pytest.approx(wanted)
    close = torch.testing.assert_close
    close(kg_score("distmult", entity[h], relation[r], entity[t]), found["distmult"])
    close(kg_score("cp", entity[h], relation[r], tail[t]), found["cp"])
    pairs = [each.unflatten(1, (2, 2)) for each in (entity[h], relation[r], entity[t])]
    close(kg_score("complex", *pairs), found["complex"])
    close(kg_score("rescal", entity[h], matrix[r], entity[t]), found["rescal"])


def test_rescal_of_diagonal_matrices_and_complex_of_real_numbers_are_distmult():
    index, _ = _everything()
    entity, relation = _drawn(N, 3), _drawn(2 * M, 3, seed=1)
    wanted = _set(DistMult(N, M, 3), entity=entity, relation=relation)(index)
    found = _set(RESCAL(N, M, 3), entity=entity, relation=torch.diag_embed(relation))(index)
    torch.testing.assert_close(found, wanted)
    real = [torch.stack((each, torch.zeros_like(each)), -1).flatten(1) for each in (entity, relation)]
    torch.testing.assert_close(_set(ComplEx(N, M, 6), entity=real[0], relation=real[1])(index), wanted)


def test_distmult_is_symmetric_and_complex_turns_round_with_the_conjugate_relation():
    index, (h, r, t) = _everything()
    back = torch.stack((t, r, h), 1)
    model = _set(DistMult(N, M, 4), entity=_drawn(N, 4), relation=_drawn(2 * M, 4, seed=1))
    torch.testing.assert_close(model(index), model(back))
    model = _set(ComplEx(N, M, 4), entity=_drawn(N, 4), relation=_drawn(2 * M, 4, seed=1))
    turned = _set(ComplEx(N, M, 4), entity=model.entity, relation=model.relation * torch.tensor([1, -1, 1, -1]))
    torch.testing.assert_close(model(index), turned(back))
    assert not torch.allclose(model(index), model(back))


def test_factors_are_the_parts_of_the_score():
    index, (h, r, t) = _everything()
    for name in ("cp", "distmult", "complex", "rescal"):
        model = build_model(name, N, M, 4, init_scale=1.0).double()
        factors = model.factors(model.rows(h), r, model.rows(t))
        head, tail = factors.head, factors.tail
        relation = factors.relation if factors.index is None else factors.relation[factors.index]
        if factors.family == "matrix":
            found = torch.einsum("ni,nij,nj->n", head, relation, tail)
        else:
            found = (head * relation * tail.conj()).sum(1)
        torch.testing.assert_close(found.real if found.is_complex() else found, model(index))


def test_the_start_has_the_stated_spread():
    for name in ("cp", "distmult", "complex", "rescal", "transe"):
        model = build_model(name, 400, 20, 20, init_scale=0.02)
        for each in model.parameters():
            assert float(each.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_bad_settings_and_shapes_are_refused(plain_inputs):
    with pytest.raises(ValueError, match=r"dim must be even for complex numbers.*got 5"):
        ComplEx(3, 1, 5)
    with pytest.raises(ValueError, match="num_entities=0 must be"):
        DistMult(0, 1, 4)
    with pytest.raises(ValueError, match="'tucker' is not known; choose one of 'atth', "):
        build_model("tucker", 3, 1, 4)
    with pytest.raises(ValueError, match="norm is no option of 'cp'; it has init_scale, seed"):
        build_model("cp", 3, 1, 4, norm=1)
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match=r"relation of 'rescal' must have shape \(3, 4, 4\), got \(3, 4\)"):
        kg_score("rescal", x, x, x)
    with pytest.raises(ValueError, match=r"head of 'complex' must have shape \(3, 4, 2\), got \(3, 4\)"):
        kg_score("complex", x, x, x)
    with pytest.raises(ValueError, match="tail"):
        kg_score("distmult", x, x, torch.ones(2, 4))
    with pytest.raises(ValueError, match="model='gie' is not known"):
        kg_score("gie", x, x, x)
