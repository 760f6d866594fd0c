"""Two stages: what is trained and what stays, going on after an interruption, and what is refused."""

import copy

import pytest
import torch
from torch import nn

from equipoise.core.diffusion import NoiseSchedule
from equipoise.core.models.low_rank import LoRALinear
from equipoise.core.models.principal import PrincipalAutoencoder
from equipoise.core.models.vector_denoiser import VectorDenoiser
from equipoise.data.tiny_diffusion import TinyDenoiser
from equipoise.multimodal import ConditionProjector, ConflictMeter, DCRLoss, DCRTrainer, LoRASettings, PixelNorm

IMAGES = torch.rand(24, 3, 4, 4, generator=torch.Generator().manual_seed(0))
SHORT = {"steps": 6, "batch_size": 4, "round_steps": 2, "learning_rate": 1e-2}


class _Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 5))

    def forward(self, x):
        return self.head(self.body(x))


def _denoiser(condition=6, prediction_type="v"):
    network = VectorDenoiser(8, condition, width=16, blocks=1)
    nn.init.normal_(network.outward.weight, std=0.2)
    return TinyDenoiser(network, NoiseSchedule.cosine(50), prediction_type)


def _trainer(seed=0, **options):
    torch.manual_seed(5)
    parts = {
        "encoder": _Encoder(),
        "projector": ConditionProjector(5, 6),
        "denoiser": _denoiser(),
        "autoencoder": PrincipalAutoencoder((3, 4, 4), 8).fit(2 * IMAGES - 1),
        "lora": LoRASettings(rank=2, dropout=0.3),
    }
    return DCRTrainer(**{**parts, "seed": seed, **options})


def _weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def _same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stage1_loss", ["rec", "dcr"])
def test_each_stage_trains_its_part_and_nothing_else(stage1_loss):
    encoder, denoiser = _Encoder(), _denoiser()
    given, frozen = _weights(encoder), _weights(denoiser)
    trainer = _trainer(encoder=encoder, denoiser=denoiser, stage1_loss=stage1_loss)
    before = _weights(trainer.projector)
    trainer.fit_projector(IMAGES, **SHORT)
    assert not _same(_weights(trainer.projector), before)
    assert _same(_weights(trainer.encoder), given)
    aligned = _weights(trainer.projector)
    trainer.fit_encoder(IMAGES, **SHORT)
    assert _same(_weights(trainer.projector), aligned)
    assert _same(_weights(denoiser), frozen)
    assert _same(_weights(encoder), given)
    assert not denoiser.training
    assert not any(each.requires_grad for each in denoiser.parameters())
    # Convolutions and running statistics are left as they were; of linear layers the weights, too.
    for name, value in _weights(trainer.encoder).items():
        if "lora" not in name and "head" not in name:
            assert value.equal(given[name]), name
    assert trainer.encoder.get_submodule("head.0").base.weight.equal(encoder.head[0].weight)


def test_the_exported_encoder_is_plain_and_the_same():
    trainer = _trainer()
    trainer.fit_encoder(IMAGES, **SHORT)
    plain = trainer.export()
    assert not any(isinstance(part, LoRALinear) for part in plain.modules())
    assert plain.state_dict().keys() == _Encoder().state_dict().keys()
    assert all(each.requires_grad for each in plain.parameters())
    assert not plain.training
    x = torch.randn(3, 3, 4, 4)
    torch.testing.assert_close(plain(x), trainer.encoder(x))
    assert (plain(x) - _trainer().export()(x)).abs().max() > 1e-3
    # The trainer is left as it is, and goes on.
    assert any(isinstance(part, LoRALinear) for part in trainer.encoder.modules())
    trainer.fit_encoder(IMAGES, **SHORT)
    assert (plain(x) - trainer.export()(x)).abs().max() > 1e-4


def test_losses_go_down():
    trainer = _trainer(lora=LoRASettings(rank=4))
    first = trainer.fit_projector(IMAGES, steps=200, batch_size=8, round_steps=40, learning_rate=1e-2).losses
    assert first[-1] < first[0]
    second = trainer.fit_encoder(IMAGES, steps=200, batch_size=8, round_steps=40, learning_rate=1e-2).losses
    assert second[-1] < second[0]


@pytest.mark.parametrize("stage", ["fit_projector", "fit_encoder"])
@pytest.mark.parametrize("options", [{}, {"lora": None, "stage1_loss": "dcr", "negatives": 2}])
def test_a_stage_goes_on_to_the_same_weights_bit_for_bit(stage, options, tmp_path):
    settings = {**SHORT, "steps": 9, "accumulation": 2}
    whole = _trainer(**options)
    losses = getattr(whole, stage)(IMAGES, **settings).losses

    def stop(number, loss, value):
        if number == 1:
            raise KeyboardInterrupt

    broken = _trainer(**options)
    with pytest.raises(KeyboardInterrupt):
        getattr(broken, stage)(IMAGES, **settings, progress=stop, checkpoint=tmp_path / "state")
    again = _trainer(**options)
    torch.manual_seed(99)
    assert getattr(again, stage)(IMAGES, **settings, checkpoint=tmp_path / "state").losses == losses
    assert _same(_weights(again.encoder), _weights(whole.encoder))
    assert _same(_weights(again.projector), _weights(whole.projector))
    with pytest.raises(ValueError, match="of other data or settings"):
        getattr(_trainer(seed=1, **options), stage)(IMAGES, **settings, checkpoint=tmp_path / "state")


def test_running_statistics_go_on_where_a_part_of_the_encoder_is_frozen(tmp_path):
    encoder = _Encoder()
    encoder.body[0].requires_grad_(False)
    first, second, whole = (_trainer(encoder=encoder, lora=None) for _ in range(3))
    whole.fit_encoder(IMAGES, **SHORT)
    path = tmp_path / "stage.pt"

    def stop(round_number, loss, value):
        if round_number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.fit_encoder(IMAGES, **SHORT, progress=stop, checkpoint=path)
    second.fit_encoder(IMAGES, **SHORT, checkpoint=path)
    assert _same(_weights(second.encoder), _weights(whole.encoder))


def test_a_checkpoint_that_could_not_be_written_is_refused_before_the_training(tmp_path, plain_inputs):
    told = []
    with pytest.raises(ValueError, match="there is no folder"):
        _trainer().fit_projector(IMAGES, **SHORT, callbacks=[told.append], checkpoint=tmp_path / "none" / "state")
    assert not told


def test_a_checkpoint_holds_what_is_trained_and_no_more(tmp_path):
    trainer = _trainer()
    trainer.fit_encoder(IMAGES, **SHORT, checkpoint=tmp_path / "state")
    held = torch.load(tmp_path / "state", weights_only=True)["trainer"]["model"]
    trained = [each for each in trainer.encoder.parameters() if each.requires_grad]
    assert sum(value.numel() for value in held.values()) == sum(each.numel() for each in trained)


def test_a_few_rows_at_a_time_train_alike():
    found = []
    for chunk in (None, 1, 3):
        trainer = _trainer(chunk=chunk)
        trainer.fit_encoder(IMAGES, **SHORT)
        found.append(_weights(trainer.encoder))
    for other in found[1:]:
        for name, value in found[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


def test_a_callback_sees_the_losses_and_changes_nothing():
    meter = ConflictMeter(every=2)
    watched, plain = _trainer(), _trainer()
    watched.fit_encoder(IMAGES, **SHORT, callbacks=[meter])
    plain.fit_encoder(IMAGES, **SHORT)
    assert _same(_weights(watched.encoder), _weights(plain.encoder))
    assert len(meter.cosines) == 3
    assert all(-1 <= cosine <= 1 for cosine in meter.cosines)


def test_a_meter_finds_no_conflict_where_a_loss_does_not_reach_what_is_trained():
    meter = ConflictMeter()
    with pytest.warns(UserWarning, match="a gradient is zero"):
        _trainer().fit_projector(IMAGES, **SHORT, callbacks=[meter])
    assert len(meter.cosines) == 6
    assert not any(cosine == cosine for cosine in meter.cosines)
    assert meter.share_of_conflicts != meter.share_of_conflicts


def test_the_global_state_is_left_alone_and_does_not_matter():
    torch.manual_seed(1)
    one = _trainer()
    state = torch.random.get_rng_state()
    one.fit_projector(IMAGES, **SHORT)
    one.fit_encoder(IMAGES, **SHORT)
    assert torch.random.get_rng_state().equal(state)
    other = _trainer()
    torch.manual_seed(2)
    other.fit_projector(IMAGES, **SHORT)
    other.fit_encoder(IMAGES, **SHORT)
    assert _same(_weights(one.encoder), _weights(other.encoder))


def test_views_are_made_of_pixels_in_the_unit_interval_before_they_are_normalised():
    seen, read = [], []

    class Spy(_Encoder):
        def forward(self, x):
            read.append(x)
            return super().forward(x)

    def augment(images, generator):
        seen.append(images)
        return images.flip(3)

    norm = PixelNorm((0.2, 0.3, 0.4), (0.1, 0.2, 0.3))
    trainer = _trainer(encoder=Spy(), augment=augment, encoder_pixels=norm)
    trainer.fit_encoder(IMAGES, steps=1, batch_size=4)
    assert 0 <= seen[0].min() <= seen[0].max() <= 1
    # The first is of the check that all parts fit.
    torch.testing.assert_close(read[1], norm(seen[0]))
    torch.testing.assert_close(read[2], norm(seen[0]).flip(3))


def test_only_adapters_are_in_training_mode():
    trainer, modes = _trainer(), []
    trainer.fit_encoder(
        IMAGES,
        steps=1,
        callbacks=[lambda step: modes.append({n: m.training for n, m in trainer.encoder.named_modules()})],
    )
    assert not modes[0]["body.1"]
    assert modes[0]["head.0.dropout"]
    assert not any(part.training for part in trainer.encoder.modules())


@pytest.mark.parametrize("stage2_loss", ["dcr", "rec", "con", "con+rec"])
def test_every_loss_trains_in_half_precision(stage2_loss):
    trainer, seen = _trainer(mixed_precision=True, stage2_loss=stage2_loss), []
    trainer.fit_projector(IMAGES, **SHORT)
    before = trainer.export()
    trainer.fit_encoder(IMAGES, **SHORT, callbacks=[lambda step: seen.append(step.loss(stage2_loss).dtype)])
    assert set(seen) == {torch.float32}
    x = torch.randn(2, 3, 4, 4)
    assert trainer.export()(x).dtype is torch.float32
    assert (trainer.export()(x) - before(x)).abs().max() > 1e-4


def test_the_naive_sum_is_the_sum():
    found = []

    def look(step):
        found.append([float(step.loss(name).detach()) for name in ("con", "rec", "con+rec")])

    trainer = _trainer(reconstruction_weight=0.25)
    trainer.fit_encoder(IMAGES, steps=1, callbacks=[look])
    con, rec, both = found[0]
    assert both == pytest.approx(con + 0.25 * rec)


def test_accumulated_batches_are_a_step():
    trainer, parts = _trainer(), []
    original = trainer._models.augment

    def augment(images, generator):
        parts.append(len(images))
        return original(images, generator)

    trainer = _trainer(augment=augment)
    trainer.fit_encoder(IMAGES, steps=2, batch_size=4, accumulation=3)
    assert parts == [4] * 6


def test_a_batch_larger_than_the_images_has_each_once_and_same_images_are_masked():
    trainer, seen = _trainer(), []
    trainer.fit_encoder(IMAGES[:5], steps=3, batch_size=16, callbacks=[lambda step: seen.append(step.ids.tolist())])
    assert all(sorted(ids) == [0, 1, 2, 3, 4] for ids in seen)
    # A batch that goes on into the next pass may hold an image twice, under one number.
    seen.clear()
    trainer.fit_encoder(IMAGES[:5], steps=3, batch_size=4, callbacks=[lambda step: seen.append(step.ids.tolist())])
    assert sorted([each for ids in seen for each in ids][:10]) == sorted([*range(5), *range(5)])


def test_the_best_round_is_kept():
    trainer, values, states = _trainer(), iter([1.0, 3.0, 2.0]), []

    def validate(module):
        assert not module.training
        states.append(_weights(module))
        return next(values)

    history = trainer.fit_encoder(IMAGES, **SHORT, validate=validate)
    assert history.best_epoch == 1
    assert _same(_weights(trainer.encoder), states[1])


def test_sampled_negatives_are_called_approximate():
    assert _trainer(negatives=2).approximate
    assert not _trainer().approximate


def test_images_may_be_anything_with_items():
    class Folder:
        def __len__(self):
            return len(IMAGES)

        def __getitem__(self, index):
            return IMAGES[index]

    one, other = _trainer(), _trainer()
    one.fit_encoder(IMAGES, **SHORT)
    other.fit_encoder(Folder(), **SHORT)
    assert _same(_weights(one.encoder), _weights(other.encoder))


def test_attention_and_encoders_without_linear_layers(plain_inputs):
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.last = nn.MultiheadAttention(3, 1, batch_first=True), nn.Linear(3, 5)

        def forward(self, x):
            rows = x.flatten(2).mT
            return self.last(self.attention(rows, rows, rows)[0].mean(1))

    trainer = _trainer(encoder=Attends())
    trainer.fit_encoder(IMAGES, **SHORT)
    assert isinstance(trainer.encoder.last, LoRALinear)
    with pytest.raises(ValueError, match="no linear layer inside"):
        _trainer(encoder=nn.Sequential(nn.Conv2d(3, 5, 4), nn.Flatten())).fit_encoder(IMAGES, **SHORT)
    trainer = _trainer(encoder=nn.Sequential(nn.Conv2d(3, 5, 4), nn.Flatten()), lora=None)
    trainer.fit_encoder(IMAGES, **SHORT)


def test_what_does_not_fit_is_refused_in_a_sentence(plain_inputs):
    for options, words in [
        ({"target": "epsilon"}, "target='epsilon', but the denoiser predicts 'v'"),
        ({"denoiser": nn.Linear(2, 2)}, "denoiser must have schedule, prediction_type, shape and predict"),
        ({"loss": DCRLoss(reduction="sum")}, "reduction='sum'"),
        ({"stage1_loss": "con"}, "stage1_loss='con' is not known"),
        ({"chunk": 0}, "chunk=0"),
    ]:
        with pytest.raises(ValueError, match=words):
            _trainer(**options)
    for options, words in [
        ({"projector": ConditionProjector(5, 7)}, r"conditions of shape \(7,\), which the denoiser does not take"),
        ({"projector": ConditionProjector(4, 6)}, "embedding has width 5"),
        ({"autoencoder": PrincipalAutoencoder((3, 4, 4), 9)}, r"latents of shape \(9,\), the denoiser reads \(8,\)"),
        ({"encoder": nn.Conv2d(3, 5, 3)}, r"the encoder must give embeddings \(n, d\)"),
        ({"augment": lambda images, generator: images[:1]}, "augment must give views of shape"),
    ]:
        with pytest.raises(ValueError, match=words):
            _trainer(stage1_loss="dcr", **options).fit_projector(IMAGES, **SHORT)
    for images, ids, words in [
        (2 * IMAGES - 1, None, r"images must lie in \[0, 1\]"),
        (IMAGES[0], None, "images"),
        (IMAGES, torch.zeros(3).long(), "ids"),
        (IMAGES[:0], None, "images is empty"),
        ([1, 2], None, "images must be floating point"),
        (3, None, "images"),
    ]:
        with pytest.raises(ValueError, match=words):
            _trainer().fit_projector(images, ids, **SHORT)
    frozen = copy.deepcopy(_Encoder()).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that asks for a gradient"):
        _trainer(encoder=frozen, lora=None).fit_encoder(IMAGES, **SHORT)


def test_images_in_double_precision_and_encoders_without_weights():
    one, other = _trainer(), _trainer()
    for trainer, images in ((one, IMAGES), (other, IMAGES.double())):
        trainer.fit_projector(images, **SHORT)
        trainer.fit_encoder(images, **SHORT)
    assert _same(_weights(one.encoder), _weights(other.encoder))
    fixed = _trainer(encoder=nn.Flatten(), projector=ConditionProjector(48, 6))
    assert len(fixed.fit_projector(IMAGES, **SHORT).losses) == 3


def test_a_loss_that_is_not_finite_stops_the_training():
    denoiser = _denoiser()
    nn.init.constant_(denoiser.network.outward.bias, torch.inf)
    with pytest.raises((FloatingPointError, ValueError), match=r"prediction holds|pred holds"):
        _trainer(denoiser=denoiser).fit_encoder(IMAGES, **SHORT)


def test_every_step_and_every_view_draws_anew():
    times, noisy, outputs = [], [], []

    class Drops(_Encoder):
        def forward(self, x):
            outputs.append(nn.functional.dropout(super().forward(x), 0.5, self.training))
            return outputs[-1]

    def look(step):
        times.append(step.times)
        noisy.append(step.noisy)

    trainer = _trainer(encoder=Drops(), lora=None, augment=lambda images, generator: images)
    trainer.fit_encoder(IMAGES[:4], steps=3, batch_size=4, callbacks=[look])
    assert not times[0].equal(times[1])
    assert not noisy[1].equal(noisy[2])
    # The first is of the check that all parts fit; then an image and its view, which are alike here.
    assert not outputs[1].equal(outputs[2])
