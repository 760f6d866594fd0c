"""Small models of each family, for tests of what acts on any model."""

import torch
from torch import nn

from equipoise.knowledge import KGEModel, KGFactors


def _normal(*shape, seed, scale=0.5):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(scale * torch.randn(*shape, generator=generator, dtype=torch.float64))


class Diagonal(KGEModel):
    """DistMult; Σ h r t."""

    def __init__(self, num_entities, num_relations, dim, seed=0):
        super().__init__(num_entities, num_relations, dim)
        self.entity = _normal(num_entities, dim, seed=seed)
        self.relation = _normal(2 * num_relations, dim, seed=seed + 1)

    def query(self, heads, relations):
        return (heads["entity"] * self.relation[relations],)

    def compare(self, query, tails):
        table = tails["entity"]
        return query[0] @ table.T if table.ndim == 2 else (query[0][:, None] * table).sum(-1)

    def factors(self, heads, relations, tails):
        return KGFactors(heads["entity"], self.relation[relations], tails["entity"], "real")


class Phases(Diagonal):
    """ComplEx; Re Σ h r t̄, the halves of a row real and imaginary."""

    def query(self, heads, relations):
        product = _complex(heads["entity"]) * _complex(self.relation[relations])
        return (torch.cat([product.real, product.imag], -1),)

    def factors(self, heads, relations, tails):
        return KGFactors(
            _complex(heads["entity"]), _complex(self.relation[relations]), _complex(tails["entity"]), "complex"
        )


class Matrices(Diagonal):
    """RESCAL; h R t."""

    def __init__(self, num_entities, num_relations, dim, seed=0):
        super().__init__(num_entities, num_relations, dim, seed)
        self.relation = _normal(2 * num_relations, dim, dim, seed=seed + 1)

    def query(self, heads, relations):
        return (torch.bmm(heads["entity"][:, None], self.relation[relations]).squeeze(1),)

    def factors(self, heads, relations, tails):
        found, index = relations.unique(return_inverse=True)
        return KGFactors(heads["entity"], self.relation[found], tails["entity"], "matrix", index)


class Distances(KGEModel):
    """A translation with biases and a scale that all share: two entity tables, and more than relations to learn."""

    entity_tables = ("entity", "bias")

    def __init__(self, num_entities, num_relations, dim, seed=0):
        super().__init__(num_entities, num_relations, dim)
        self.entity = _normal(num_entities, dim, seed=seed)
        self.bias = _normal(num_entities, 1, seed=seed + 2)
        self.relation = _normal(2 * num_relations, dim, seed=seed + 1)
        self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.unused = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def query(self, heads, relations):
        return heads["entity"] + self.relation[relations], heads["bias"]

    def compare(self, query, tails):
        point, bias = query
        table = tails["entity"]
        apart = (point[:, None] - (table[None] if table.ndim == 2 else table)).square().sum(-1)
        return -self.scale * apart + bias + tails["bias"].squeeze(-1)

    def factors(self, heads, relations, tails):
        return KGFactors(heads["entity"], self.relation[relations], tails["entity"], "real")


def _complex(rows):
    return torch.complex(*rows.chunk(2, -1))


SMALL = {"diagonal": Diagonal, "phases": Phases, "matrices": Matrices, "distances": Distances}


def random_triples(count, num_entities, num_relations, seed=0):
    """Triples without reciprocal ones."""
    generator = torch.Generator().manual_seed(seed)
    columns = [torch.randint(most, (count,), generator=generator) for most in (num_entities, num_relations)]
    return torch.stack([columns[0], columns[1], torch.randint(num_entities, (count,), generator=generator)], 1)
