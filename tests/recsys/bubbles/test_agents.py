import numpy as np
import pytest
import torch

from equipoise.data import Interactions
from equipoise.recsys import EmbeddingAgent, Memory, PolicyAgent, RuleAgent, UserAgent, build_profiles

GENRES = torch.tensor([[1, 0], [1, 1], [0, 1], [0, 0]])
PROFILE = build_profiles(Interactions.from_pairs([0, 0], [0, 1], num_items=4), GENRES).all()[0]
NOTHING = Memory(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


def _frequency(agent, memory=NOTHING, draws=20000):
    generator, page, counts = np.random.default_rng(0), np.arange(4), np.zeros(4)
    for _ in range(draws):
        counts[agent.decide(PROFILE, page, memory, generator).clicked] += 1
    return counts / draws


def test_the_rules_are_their_formulas():
    m = np.linspace(0, 1, 5)
    np.testing.assert_allclose(RuleAgent.positive().chance(m), 0.8 * (1 - 0.7 * m))
    np.testing.assert_allclose(RuleAgent.positive().chance(m), 0.8 * (0.3 + 0.7 * (1 - m)))
    np.testing.assert_allclose(RuleAgent.negative().chance(m), 0.4 * m**2)
    np.testing.assert_allclose(RuleAgent.neutral().chance(m), 0.6 * m)


@pytest.mark.parametrize("agent", [RuleAgent.positive(), RuleAgent.negative(), RuleAgent.neutral()])
def test_clicks_come_as_often_as_the_rule_says(agent):
    # Taste (0.75, 0.25): item 0 is the best match, item 1 two thirds of it, item 2 one third.
    wanted = agent.chance(np.array([1, 0.5 / 0.75, 0.25 / 0.75, 0]))
    np.testing.assert_allclose(_frequency(agent), wanted, atol=0.015)


def test_an_embedding_agent_matches_by_the_direction_of_what_was_taken():
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-5.0, 0.0]])
    agent = EmbeddingAgent(vectors, RuleAgent(1.0))
    taken = np.array([0])
    cosines = np.array([1, 0, 2**-0.5, -1])
    np.testing.assert_allclose(agent.match(taken, np.arange(4)), (cosines + 1) / 2)
    np.testing.assert_allclose(_frequency(agent, Memory(taken, taken), 4000), (cosines + 1) / 2, atol=0.03)
    recent = EmbeddingAgent(vectors, RuleAgent(1.0), recent=1)
    np.testing.assert_allclose(recent.match(np.array([1, 0]), np.arange(4)), (cosines + 1) / 2)
    assert not agent.match(NOTHING.taken, np.arange(4)).any()


def test_a_policy_reads_the_page_and_answers_with_places():
    heard = []

    def policy(situation):
        heard.append(situation)
        return [1], True

    agent = PolicyAgent(policy, ["A", "B", "C", "D"], ["fun", "fear"], attitude="Look around.", remembered=1)
    page = np.array([3, 2])
    decision = agent.decide(PROFILE, page, Memory(np.array([0, 1]), page), np.random.default_rng(0))
    assert decision.clicked.tolist() == [2]
    assert decision.stop
    assert heard[0].page == ("D", "C")
    assert heard[0].remembered == ("B",)
    assert heard[0].taste == (("fun", 0.75), ("fear", 0.25))
    assert heard[0].attitude == "Look around."
    assert set(heard[0].traits) == {"activity", "conformity", "diversity"}
    for wrong in ([2], [-1], [0, 0]):
        with pytest.raises(ValueError, match="policy gave the places"):
            PolicyAgent(lambda _, wrong=wrong: (wrong, False), ["A"] * 4, ["x", "y"]).decide(
                PROFILE, page, NOTHING, np.random.default_rng(0)
            )


def test_all_agents_satisfy_the_protocol():
    agents = (RuleAgent(0.5), EmbeddingAgent(torch.eye(4), RuleAgent(0.5)), PolicyAgent(lambda _: ([], False), [], []))
    assert all(isinstance(agent, UserAgent) for agent in agents)
