import pytest
import torch
from torch.nn import functional

from equipoise.core.token_divergence.families import AlphaBeta, JensenShannon
from equipoise.language.distillation.data import TokenRow, collate_tokens
from equipoise.language.distillation.divergence_loss import ABDivergenceLoss, TokenDivergenceLoss
from equipoise.language.distillation.hybrid import HybridKDLoss
from equipoise.language.distillation.objective import CORPUS, DistillationObjective, linear_head
from equipoise.language.distillation.risk_guided import RiskGuidedHybridLoss
from tiny_language import tiny_model, tiny_rows


@pytest.fixture
def pair():
    return tiny_model(0), tiny_model(1, hidden=24, heads=3, scale=8.0)


def _gradients(model):
    return {name: value.grad.clone() for name, value in model.named_parameters()}


def _run(objective, student, teacher, batch, **settings):
    student.zero_grad()
    step = objective(student, teacher, batch, **settings)
    step.loss.backward()
    return step, _gradients(student)


def test_the_loss_is_the_mean_over_tokens_that_follow_a_prompt(pair):
    student, teacher = pair
    batch = collate_tokens(tiny_rows())
    loss = DistillationObjective(TokenDivergenceLoss("forward_kl"), kd_ratio=0.7)(student, teacher, batch).loss
    kl, hard = [], []
    for row in tiny_rows():
        ids = torch.tensor([row.input_ids])
        own, other = student(ids).logits[0].log_softmax(1), teacher(ids).logits[0].log_softmax(1)
        for place, label in enumerate(row.labels[1:]):
            if label != -100:
                kl.append((other[place].exp() * (other[place] - own[place])).sum())
                hard.append(-own[place, label])
    torch.testing.assert_close(loss, 0.7 * torch.stack(kl).mean() + 0.3 * torch.stack(hard).mean())


@pytest.mark.parametrize(
    ("loss", "kd_ratio"),
    [
        (ABDivergenceLoss(), 1.0),
        (ABDivergenceLoss(), 0.6),
        (TokenDivergenceLoss(JensenShannon(0.3), temperature=2.0), 0.6),
        (TokenDivergenceLoss(temperature=2.0, scale_by_T2=True), 1.0),
        (HybridKDLoss("confidence"), 1.0),
        (RiskGuidedHybridLoss(), 1.0),
    ],
)
def test_logits_and_hidden_states_give_one_loss_and_gradient(pair, loss, kd_ratio):
    batch = collate_tokens(tiny_rows())
    plain, slopes = _run(DistillationObjective(loss, kd_ratio=kd_ratio), *pair, batch, measure=True)
    fused, others = _run(DistillationObjective(loss, kd_ratio=kd_ratio, fused=True), *pair, batch, measure=True)
    torch.testing.assert_close(fused.loss, plain.loss)
    torch.testing.assert_close(others, slopes, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fused.sums, plain.sums, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kd_ratio", [1.0, 0.5])
def test_the_cut_of_a_step_does_not_matter(pair, fused, kd_ratio):
    rows, items = tiny_rows(), sum(label != -100 for row in tiny_rows() for label in row.labels)
    objective = DistillationObjective(kd_ratio=kd_ratio, lm_coef=0.5, fused=fused)

    def with_corpus(start, stop):
        beside = collate_tokens(tiny_rows(seed=5)[start:stop])
        return {**collate_tokens(rows[start:stop]), **{CORPUS + name: value for name, value in beside.items()}}

    student, teacher = pair
    whole, slopes = _run(objective, student, teacher, with_corpus(0, 8))
    student.zero_grad()
    parts = [
        objective(student, teacher, with_corpus(start, stop), num_items_in_batch=items).loss
        for start, stop in [(0, 1), (1, 4), (4, 8)]
    ]
    sum(parts).backward()
    torch.testing.assert_close(sum(parts).detach(), whole.loss.detach())
    torch.testing.assert_close(_gradients(student), slopes, rtol=1e-4, atol=1e-6)


def test_a_block_of_the_corpus_weighs_as_much_as_its_row(pair):
    student, teacher = pair
    rows, corpus = tiny_rows(2), tiny_rows(2, seed=9)
    batch = {**collate_tokens(rows), **{CORPUS + name: value for name, value in collate_tokens(corpus).items()}}
    found = DistillationObjective(lm_coef=2.0)(student, teacher, batch).loss
    plain = DistillationObjective()(student, teacher, batch).loss
    counts = torch.tensor([float(sum(label != -100 for label in row.labels)) for row in rows])
    logits = [student(torch.tensor([row.input_ids])).logits[0, :-1] for row in corpus]
    losses = torch.stack(
        [functional.cross_entropy(each, torch.tensor(row.labels[1:])) for each, row in zip(logits, corpus, strict=True)]
    )
    torch.testing.assert_close(found - plain, 2 * (counts / counts.sum() * losses).sum())


def test_the_teacher_is_in_evaluation_mode_without_gradients_and_then_as_it_was():
    student, teacher = tiny_model(0), tiny_model(1, attention_dropout=0.9)
    teacher.train()
    teacher.model.norm.eval()
    batch = collate_tokens(tiny_rows())
    first = DistillationObjective()(student, teacher, batch).loss
    again = DistillationObjective()(student, teacher, batch).loss
    assert first == again
    first.backward()
    assert all(value.grad is None for value in teacher.parameters())
    assert teacher.training
    assert not teacher.model.norm.training


@pytest.mark.parametrize("fused", [False, True])
def test_padding_of_the_vocabulary_is_an_error_or_cropped(fused):
    student, teacher = tiny_model(0), tiny_model(1, vocabulary=25)
    batch = collate_tokens(tiny_rows())
    with pytest.raises(ValueError, match=r"vocabulary has 23 entries, the teacher's 25; .* allow_vocab_crop=True"):
        DistillationObjective(fused=fused)(student, teacher, batch)
    found = DistillationObjective(fused=fused, allow_vocab_crop=True)(student, teacher, batch).loss
    with torch.no_grad():
        teacher.lm_head.weight.data = teacher.lm_head.weight.data[:23]
    torch.testing.assert_close(found, DistillationObjective()(student, teacher, batch).loss)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kd_ratio", [0.0, 0.5, 1.0])
def test_a_batch_without_labels_gives_zero_and_a_gradient_to_every_parameter(pair, fused, kd_ratio):
    student, teacher = pair
    batch = collate_tokens([TokenRow([3, 4, 5], [-100] * 3, 0)])
    step, slopes = _run(DistillationObjective(kd_ratio=kd_ratio, fused=fused), student, teacher, batch)
    assert step.loss == 0
    assert all((slope == 0).all() for slope in slopes.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(pair, dtype):
    student, teacher = (model.to(dtype) for model in pair)
    batch = collate_tokens(tiny_rows())
    losses = [DistillationObjective(fused=fused)(student, teacher, batch).loss for fused in (False, True)]
    torch.testing.assert_close(*losses, rtol=0.03 if dtype is torch.bfloat16 else 1e-6, atol=1e-3)
    assert losses[0].dtype is (torch.float64 if dtype is torch.float64 else torch.float32)


def test_sums_are_of_the_tokens_learnt(pair):
    student, teacher = pair
    batch = collate_tokens(tiny_rows())
    sums = DistillationObjective(TokenDivergenceLoss("forward_kl"))(student, teacher, batch, measure=True)
    assert int(sums.sums.tokens) == sum(label != -100 for row in tiny_rows() for label in row.labels)
    torch.testing.assert_close(sums.sums.forward_kl / sums.sums.tokens, sums.loss.detach())
    same = DistillationObjective()(student, student, batch, measure=True).sums
    assert same.agreement == same.tokens
    torch.testing.assert_close(same.student_entropy, same.teacher_entropy)


def test_an_output_layer_with_a_factor_that_is_not_seen_is_refused(pair):
    class Doubled(torch.nn.Linear):
        def forward(self, hidden):
            return 2 * super().forward(hidden)

    student, teacher = pair
    student.lm_head.__class__ = Doubled
    with pytest.raises(ValueError, match="not its output layer times its last hidden states; pass fused=False"):
        DistillationObjective(fused=True)(student, teacher, collate_tokens(tiny_rows()))


def test_factor_and_cap_of_the_configuration_are_seen(pair):
    student, _ = pair
    student.config.logit_scale, student.config.final_logit_softcapping = 0.5, 30.0
    head = linear_head(student)
    assert (head.scale, head.soft_cap) == (0.5, 30.0)


def test_bad_parts_are_refused(pair, plain_inputs):
    student, teacher = pair
    batch = collate_tokens(tiny_rows())
    with pytest.raises(ValueError, match="kd_ratio=1 needs a teacher"):
        DistillationObjective()(student, None, batch)
    with pytest.raises(ValueError, match=r"lm_coef=0\.1 needs a corpus"):
        DistillationObjective(lm_coef=0.1)(student, teacher, batch)
    with pytest.raises(ValueError, match=r"kd_ratio.*1.5.*\[0, 1\]"):
        DistillationObjective(kd_ratio=1.5)
    with pytest.raises(ValueError, match=r"kd_ratio=0\.5 with fused=True goes with a TokenDivergenceLoss alone"):
        DistillationObjective(HybridKDLoss(), fused=True, kd_ratio=0.5)
    with pytest.raises(ValueError, match="Identity has no form for hidden states; pass fused=False"):
        DistillationObjective(torch.nn.Identity(), fused=True)


def test_alpha_beta_of_the_objective_reaches_the_loss(pair):
    batch = collate_tokens(tiny_rows())
    one, other = (
        DistillationObjective(TokenDivergenceLoss(AlphaBeta(*point)))(*pair, batch).loss for point in [(1, 0), (0, 1)]
    )
    assert abs(float((one - other).detach())) > 1e-3
