"""The loop of epochs: it keeps the best one, stops in time, and goes on after an interruption."""

import math

import pytest
import torch

from equipoise.core.epochs import Trainer, fit_epochs


class _Counting:
    """A trainer whose weight is the number of epochs done."""

    def __init__(self, losses=None):
        self.model, self.losses = torch.nn.Linear(1, 1, bias=False), losses
        torch.nn.init.zeros_(self.model.weight)

    def epoch(self):
        with torch.no_grad():
            self.model.weight += 1
        return self.losses.pop(0) if self.losses else 0.5

    def state_dict(self):
        return self.model.state_dict()

    def load_state_dict(self, state):
        self.model.load_state_dict(state)


def test_the_best_epoch_is_kept_and_patience_ends_the_search():
    for patience, epochs in ((None, 8), (3, 6), (2, 5)):
        values = iter([0.1, 0.2, 0.9, 0.3, 0.9, 0.8, 0.95, 0.1])
        trainer = _Counting()
        history = fit_epochs(trainer, 8, validate=lambda values=values: next(values), patience=patience)
        assert len(history.values) == len(history.losses) == epochs
        # Of equal values the first is kept.
        assert history.best_epoch == (6 if patience is None else 2)
        assert float(trainer.model.weight.detach()) == history.best_epoch + 1


class _Stopped(Exception):  # noqa: N818
    pass


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(tmp_path):
    values = [0.1, 0.5, 0.2, 0.9, 0.3, 0.4]

    def run(stop_at, checkpoint, fingerprint="first"):
        trainer = _Counting()
        assert isinstance(trainer, Trainer)

        def progress(epoch, loss, value):
            assert (loss, value) == (0.5, values[epoch])
            if epoch == stop_at:
                raise _Stopped

        validate = lambda: values[round(float(trainer.model.weight.detach())) - 1]  # noqa: E731
        history = fit_epochs(
            trainer, 6, validate=validate, progress=progress, checkpoint=checkpoint, fingerprint=fingerprint
        )
        return history, float(trainer.model.weight.detach())

    for stop_at in (1, 3, 5):
        path = tmp_path / f"state-{stop_at}"
        with pytest.raises(_Stopped):
            run(stop_at, path)
        assert run(None, path) == run(None, None)
    with pytest.raises(ValueError, match="state-1 is of other data or settings"):
        run(None, tmp_path / "state-1", "second")
    for bad in (b"nothing", b""):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="state-5 is no checkpoint of a training"):
            run(None, path)


def test_values_may_be_taken_at_every_other_epoch_and_at_the_last():
    trainer = _Counting()
    values = iter([0.1, 0.9, 0.2, 0.3])
    history = fit_epochs(trainer, 7, validate=lambda: next(values), validate_every=2)
    assert history.values == {1: 0.1, 3: 0.9, 5: 0.2, 6: 0.3}
    assert (history.best_epoch, float(trainer.model.weight.detach())) == (3, 4)
    assert fit_epochs(_Counting(), 3, validate=lambda: 0.5, validate_every=5).values == {2: 0.5}


@pytest.mark.usefixtures("plain_inputs")
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="patience needs validate"):
        fit_epochs(_Counting(), 2, patience=1)
    with pytest.raises(ValueError, match="epochs=0"):
        fit_epochs(_Counting(), 0)
    with pytest.raises(ValueError, match="validate gave NaN after epoch 0"):
        fit_epochs(_Counting(), 2, validate=lambda: math.nan)
    with pytest.raises(FloatingPointError, match="the loss of epoch 1 is nan"):
        fit_epochs(_Counting([1.0, math.nan]), 3)
