"""Machines with other hardware, at the one seam of detection; verdicts on a noisy machine."""

import pytest
import torch

from kernel_pytorch.core.hardware_detector import Probe, using_probe
from kernel_pytorch.core.hardware_detector.nvml import Answer, Gpu
from kernel_pytorch.optimize.measure import Timing

GIB = 1 << 30


class Machine(Probe):
    """A machine of given answers, with no files but those under ``root``."""

    def __init__(self, root, *, builds=None, devices=None, answer=None, packages=(), env=None):
        super().__init__(root)
        self.builds, self.devices, self.answer = builds or {}, devices or {}, answer
        self.packages, self.env = packages, env or {}

    def environment(self):
        return self.env

    def torch_build(self, kind):
        return self.builds.get(kind)

    def torch_devices(self, kind):
        return self.devices.get(kind, 0)

    def torch_properties(self, kind, index):
        return None

    def installed(self, package):
        return package in self.packages

    def nvml(self):
        return self.answer


def gpu(index, name="NVIDIA H100", capability=(9, 0)):
    return Gpu(
        name=name,
        uuid=f"GPU-{index}",
        bus_id=f"0000:0{index}:00.0",
        compute_capability=capability,
        memory_bytes=80 * GIB,
        nvlinks=0,
        peers=(),
    )


def nvidia_answer(count=2, **kwargs):
    gpus = tuple(gpu(i, **kwargs) for i in range(count))
    return Answer(driver_version="580.1", cuda_version="13.0", gpus=gpus)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def machine(tmp_path):
    """``machine(builds=..., ...)`` makes this machine another one until the test ends."""
    used = []

    def become(**answers):
        context = using_probe(Machine(tmp_path / "root", **answers))
        context.__enter__()
        used.append(context)

    yield become
    for context in reversed(used):
        context.__exit__(None, None, None)


@pytest.fixture
def bare(machine):
    """A machine without accelerators, whatever this one has."""
    machine()


@pytest.fixture
def two_gpus(machine):
    """A machine with two H100 that torch can use, as far as detection tells."""
    machine(builds={"cuda": "13.0"}, devices={"cuda": 2}, answer=nvidia_answer())


@pytest.fixture
def all_win(monkeypatch):
    """Every replacement counts as faster, and is timed for a moment only."""
    monkeypatch.setattr(Timing, "wins", property(lambda self: True))
    monkeypatch.setattr(Timing, "loses", property(lambda self: False))
    monkeypatch.setattr("kernel_pytorch.optimize.session._GROUP_SECONDS", 1e-9)
    monkeypatch.setattr("kernel_pytorch.optimize.judge._MODEL_SECONDS", 1e-9)
