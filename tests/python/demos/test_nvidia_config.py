"""The demo of NVIDIA configurations: every step holds, and can fail."""

import json

import pytest

from kernel_pytorch.core.hardware_detector import Probe, detect_hardware
from kernel_pytorch.demos import nvidia_config


@pytest.mark.parametrize("quick", [True, False])
def test_every_check_holds(quick):
    before = detect_hardware()
    shown = nvidia_config.run(quick=quick)
    assert shown.exit_code == 0, [c.what for c in shown.checks if not c.kept]
    assert len(shown.listings) == 6 and all(part.rows for part in shown.listings)
    assert len(shown.listings[1].rows) == (2 if quick else 5)
    json.dumps(shown.to_dict())
    assert detect_hardware().hardware_type is before.hardware_type


def test_it_fails_when_what_it_shows_is_wrong(monkeypatch):
    monkeypatch.setattr(nvidia_config._Described, "nvml", Probe.nvml)
    assert nvidia_config.run(quick=True).exit_code == 1
