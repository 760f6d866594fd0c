"""What every test shares."""

from __future__ import annotations

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch

from equipoise.core.validate import reset_warnings

# A shared machine may stall for longer than any deadline; and a test that fails must fail again.
hypothesis.settings.register_profile("shared machine", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def _fresh_warnings():
    reset_warnings()


@pytest.fixture(autouse=True)
def _repeatable():
    """Layers that a test builds begin the same each time, whatever ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace["torch"] = torch


@pytest.fixture
def plain_inputs():
    """Switch jaxtyping's checks off, so that a test of bad input meets our own message as a user would."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
