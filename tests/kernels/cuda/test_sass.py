"""What tools/gpu/sass reads, on kernels made for it; and what each suffix is compiled for."""

import dataclasses
import os
import pathlib

import pytest

from tools.gpu import sass

CUOBJDUMP = pathlib.Path(os.environ["KPT_CUOBJDUMP"])
FILES = {pathlib.Path(f).name: pathlib.Path(f) for f in os.environ["KPT_CUDA_OBJECTS"].split()}
PORTABLE, TUNED = FILES["portable.cu.cc.o"], FILES["tuned_sm90a.cu.cc.o"]
BLOCKS = FILES["blocks_sm90a.cu.cc.o"]
COPIES = (
    *("UTMALDG.2D", "UTMALDG.3D", "UTMALDG.4D", "UTMALDG.2D.MULTICAST"),
    *("UTMASTG.2D", "UTMASTG.4D", "UTMAREDG.2D.ADD"),
    *("LDSM.16.M88.4", "LDSM.16.MT88.4", "STSM.16.M88.4", "STSM.16.MT88.4"),
    *("UCGABAR_ARV", "UCGABAR_WAIT", "ACQBULK", "PREEXIT"),
)


@pytest.fixture(scope="module")
def kernels():
    return {(k.name, k.arch): k for k in sass.read(CUOBJDUMP, PORTABLE)}


def test_a_portable_file_is_compiled_for_every_architecture():
    assert sass.architectures(CUOBJDUMP, PORTABLE) == list(sass.LIMITS)
    assert ".target sm_80" in sass.ptx(CUOBJDUMP, PORTABLE)


def test_a_tuned_file_is_compiled_for_its_own_alone():
    assert sass.architectures(CUOBJDUMP, TUNED) == ["sm_90a"]
    assert sass.ptx(CUOBJDUMP, TUNED) == ""


def test_resources(kernels):
    for arch in sass.LIMITS:
        plain, stack = kernels["PlainKernel", arch], kernels["StackKernel", arch]
        assert plain.stack_bytes == 0 and plain.shared_bytes == 1024
        assert plain.max_threads == 256 and 4 <= plain.registers <= 64
        assert stack.stack_bytes >= 256 and stack.max_threads == 64
        assert "StackKernel<64>" in stack.signature


def test_instructions(kernels):
    plain, stack = kernels["PlainKernel", "sm_90a"], kernels["StackKernel", "sm_90a"]
    names = {op.split(".")[0] for op in plain.opcodes}
    assert {"LDG", "STS", "LDS", "STG", "EXIT"} <= names and "BAR" in names
    assert {"LDL", "STL"} & {op.split(".")[0] for op in stack.opcodes}
    (tuned,) = sass.read(CUOBJDUMP, TUNED)
    assert tuned.arch == "sm_90a"
    assert any(op.startswith("USETMAXREG") for op in tuned.opcodes)


def test_building_blocks():
    """Every form of wgmma, TMA, barriers and stmatrix is the instruction it is meant to be."""
    kernels = sass.read(CUOBJDUMP, BLOCKS)
    (copy,) = (k for k in kernels if k.name == "CopyKernel")
    products = [k for k in kernels if k.name == "WgmmaKernel"]
    found = frozenset().union(*(k.opcodes for k in products))
    for n in (8, 16, 32, 64, 80, 96, 128, 160, 192, 256):
        assert f"HGMMA.64x{n}x16.F32.BF16" in found
        assert f"HGMMA.64x{n}x16.F32" in found
        assert f"QGMMA.64x{n}x32.F32.E4M3.E4M3" in found
        assert f"QGMMA.64x{n}x32.F32.E5M2.E5M2" in found
    assert all(k.stack_bytes == 0 for k in products)
    for wanted in COPIES:
        assert wanted in copy.opcodes


@pytest.mark.parametrize(
    ("arch", "registers", "shared", "threads", "warps"),
    [
        # As NVIDIA's occupancy calculator has it.
        ("sm_80", 32, 0, 256, 64),
        ("sm_80", 64, 0, 256, 32),
        ("sm_80", 65, 0, 256, 24),
        ("sm_80", 255, 0, 128, 8),
        ("sm_89", 32, 0, 256, 48),
        ("sm_90a", 168, 0, 384, 12),
        ("sm_90a", 32, 200 << 10, 128, 4),
        ("sm_90a", 32, 30 << 10, 128, 28),
        ("sm_80", 16, 0, 32, 32),
    ],
)
def test_occupancy(kernels, arch, registers, shared, threads, warps):
    kernel = dataclasses.replace(
        kernels["PlainKernel", arch], registers=registers, shared_bytes=shared
    )
    assert sass.occupancy(kernel, threads) == warps
