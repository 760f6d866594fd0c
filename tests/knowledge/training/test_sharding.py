"""Two processes with some of the entities each train the model of one process with all of them."""

import pytest
import torch

from equipoise.core.epochs import fit_epochs
from equipoise.knowledge import EntityShards, EquivarianceRegularizer, KGTrainer
from knowledge.small_models import SMALL, Diagonal, random_triples
from two_processes import in_two_processes, needs_two_processes

# An odd number of entities, and a last batch of one triple, of which one process has nothing.
N, M, D, TRIPLES, BATCH, EPOCHS = 11, 3, 4, 8, 5, 3
CASES = {
    "one_vs_all": {"loss": "one_vs_all", "score_rows": 2},
    "weighted": {"loss": "one_vs_all", "entity_weight": torch.linspace(0.1, 1, N, dtype=torch.float64)},
    "negatives": {"loss": "negatives", "num_negatives": 3},
    "double": {"loss": "negatives", "num_negatives": 3, "double_negatives": True, "optimizer": "adam"},
}


def _trainer(name, case, sharded, seed=0):
    model = SMALL[name](N, M, D, seed=seed)
    weight = torch.linspace(0.05, 0.2, 2 * M, dtype=torch.float64)
    regularizer = EquivarianceRegularizer(weight, a=0.4, eps=torch.full((2 * M,), 1.2), soft=True).double()
    return KGTrainer(
        model,
        random_triples(TRIPLES, N, M),
        regularizer=regularizer,
        batch_size=BATCH,
        learning_rate=0.1,
        sharded=sharded,
        **CASES[case],
    )


def _train(trainer):
    losses = [trainer.epoch() for _ in range(EPOCHS)]
    whole = trainer.gathered()
    triples = random_triples(10, N, M, seed=4)
    return {
        "losses": losses,
        "weights": {name: each.detach().clone() for name, each in whole.named_parameters()},
        "eps": trainer.regularizer.eps.detach().clone(),
        "scores": whole.score_t(triples[:, 0], triples[:, 1]).detach(),
        "rows": len(trainer.model.entity),
    }


def _of_a_process(rank, folder):
    results = {}
    for name in SMALL:
        for case in CASES:
            # The processes begin at the weights of the first one.
            results[name, case, rank] = _train(_trainer(name, case, sharded=True, seed=100 * rank))
    whole = _trainer("diagonal", "one_vs_all", sharded=True)
    values = [0.1, 0.9, 0.3]
    history = fit_epochs(whole, 3, validate=lambda: values.pop(0), checkpoint=folder / f"state-{rank}")
    resumed = _trainer("diagonal", "one_vs_all", sharded=True)
    again = fit_epochs(resumed, 3, validate=lambda: 0.0, checkpoint=folder / f"state-{rank}")
    results["resumed", rank] = history == again, torch.equal(whole.model.entity, resumed.model.entity)
    model = SMALL["diagonal"](N, M, D)
    shards = EntityShards(model)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.1)
    settings = {"batch_size": BATCH, "optimizer": optimizer, "score_rows": 2, "sharded": shards}
    given = KGTrainer(model, random_triples(TRIPLES, N, M), **settings)
    results["given", rank] = [given.epoch() for _ in range(EPOCHS)]
    try:
        EntityShards(whole.model)
    except ValueError as error:
        results["twice", rank] = str(error)
    try:
        EntityShards(Diagonal(1, 1, 2))
    except ValueError as error:
        results["few", rank] = str(error)
    return results


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    first, second = in_two_processes(_of_a_process, tmp_path_factory.mktemp("gloo"))
    return first | second


pytestmark = needs_two_processes


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SMALL)
def test_two_processes_train_the_model_of_one(found, name, case):
    wanted = _train(_trainer(name, case, sharded=False))
    assert wanted["losses"][-1] < wanted["losses"][0]
    assert wanted["rows"] == N
    for rank in range(2):
        mine = found[name, case, rank]
        assert mine["rows"] == (5, 6)[rank]
        assert mine["losses"] == pytest.approx(wanted["losses"], rel=1e-10)
        for key, weights in wanted["weights"].items():
            torch.testing.assert_close(mine["weights"][key], weights, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(mine["eps"], wanted["eps"], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(mine["scores"], wanted["scores"], rtol=1e-9, atol=1e-9)


def test_what_is_on_every_process_stays_equal_to_the_bit(found):
    for name in SMALL:
        for case in CASES:
            first, second = (found[name, case, rank] for rank in range(2))
            assert first["losses"] == second["losses"]
            assert all(torch.equal(first["weights"][key], second["weights"][key]) for key in first["weights"])
            assert torch.equal(first["eps"], second["eps"])


def test_a_process_goes_on_from_its_own_checkpoint(found):
    assert found["resumed", 0] == found["resumed", 1] == (True, True)


def test_shards_may_be_cut_before_and_the_optimizer_made_of_them(found):
    trainer = KGTrainer(SMALL["diagonal"](N, M, D), random_triples(TRIPLES, N, M), batch_size=BATCH)
    wanted = [trainer.epoch() for _ in range(EPOCHS)]
    assert found["given", 0] == found["given", 1] == pytest.approx(wanted, rel=1e-10)


def test_tables_are_cut_once_and_not_among_more_processes_than_entities(found):
    for rank in range(2):
        assert "entity has 5 rows of 11 entities" in found["twice", rank].replace("6 rows", "5 rows")
        assert found["few", rank] == "1 entities cannot lie on 2 processes; use fewer processes"


def test_one_process_has_everything():
    model = Diagonal(N, M, D)
    before = model.entity.detach().clone()
    shards = EntityShards(model)
    assert shards.own == range(N)
    assert torch.equal(shards.gathered().entity, before)
    assert [len(EntityShards.rows_of(10, rank, 4)) for rank in range(4)] == [2, 3, 2, 3]
    trained = [_train(_trainer("distances", "one_vs_all", sharded))["losses"] for sharded in (False, True)]
    assert trained[0] == pytest.approx(trained[1], rel=1e-12)
