"""Verdicts that do not depend on how fast this machine is."""

import pytest
import torch

from kernel_pytorch.optimize.measure import Timing


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def all_win(monkeypatch):
    """Every replacement counts as faster: small test models are too quick to judge."""
    monkeypatch.setattr(Timing, "wins", property(lambda self: True))
    monkeypatch.setattr(Timing, "loses", property(lambda self: False))
    _measure_quickly(monkeypatch)


@pytest.fixture
def none_win(monkeypatch):
    """Every replacement counts as slower."""
    monkeypatch.setattr(Timing, "wins", property(lambda self: False))
    monkeypatch.setattr(Timing, "loses", property(lambda self: True))
    _measure_quickly(monkeypatch)


def _measure_quickly(monkeypatch):
    monkeypatch.setattr("kernel_pytorch.optimize.session._GROUP_SECONDS", 0.0 + 1e-9)
    monkeypatch.setattr("kernel_pytorch.optimize.judge._MODEL_SECONDS", 1e-9)
