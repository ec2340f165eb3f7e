"""What can be known of every CUDA kernel without a GPU: it is compiled for the architectures that
it should be, takes what it was declared to take, keeps nothing in local memory, and is made of the
instructions that it was written for."""

import concurrent.futures
import os
import pathlib
import re

import pytest

from tests.kernels.cuda.declared import KERNELS
from tools.gpu import sass

CUOBJDUMP = pathlib.Path(os.environ["KPT_CUOBJDUMP"])
FILES = [pathlib.Path(f) for f in os.environ["KPT_CUDA_OBJECTS"].split()]
TUNED = re.compile(r"_sm(\d+a)\.cu\.cc\.o$")
PORTABLE = [f for f in FILES if not TUNED.search(f.name)]

# Instructions that run on one architecture alone: tensor cores fed from shared memory, registers
# moved between warps (Hopper); tensor memory (Blackwell). Their PTX says so too.
ARCHITECTURE_ONLY = re.compile(r"^([HQIB]GMMA|WARPGROUP|USETMAXREG|UTC|LDTM|STTM|OMMA)(\.|$|[A-Z])")
ARCHITECTURE_ONLY_PTX = re.compile(r"\b(wgmma|setmaxnreg|tcgen05)\.")

with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
    KERNELS_OF = dict(zip(FILES, pool.map(lambda file: sass.read(CUOBJDUMP, file), FILES)))
EVERY = [k for kernels in KERNELS_OF.values() for k in kernels]
one_by_one = pytest.mark.parametrize("kernel", EVERY, ids=lambda k: f"{k.arch}-{k.signature}")


def test_there_are_kernels_and_all_are_declared():
    assert EVERY
    assert {k.name for k in EVERY} == set(KERNELS)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_architectures(file):
    tuned = TUNED.search(file.name)
    if tuned:
        assert sass.architectures(CUOBJDUMP, file) == [f"sm_{tuned[1]}"]
        assert sass.ptx(CUOBJDUMP, file) == ""
        return
    found = sass.architectures(CUOBJDUMP, file)
    assert found == list(sass.LIMITS) or len(found) == 1, "all, or one under --config=cuda_fast"
    if len(found) > 1:
        assert ".target sm_80" in sass.ptx(CUOBJDUMP, file)


@one_by_one
def test_nothing_lies_in_local_memory(kernel):
    """Neither arrays nor spilled registers."""
    assert kernel.stack_bytes == 0
    assert not [op for op in kernel.opcodes if op.split(".")[0] in ("LDL", "STL")]


@one_by_one
def test_resources_are_as_declared(kernel):
    declared = KERNELS[kernel.name]
    assert kernel.registers <= declared.registers
    assert kernel.shared_bytes <= declared.shared
    assert kernel.max_threads >= declared.threads
    assert sass.occupancy(kernel, declared.threads, declared.dynamic) >= declared.warps


@one_by_one
def test_instructions(kernel):
    for wanted in KERNELS[kernel.name].instructions:
        assert any(op.startswith(wanted) for op in kernel.opcodes), wanted


@pytest.mark.parametrize(
    "file", [f for f in FILES if not TUNED.search(f.name)], ids=lambda f: f.name
)
def test_portable_kernels_run_on_every_architecture(file):
    assert not ARCHITECTURE_ONLY_PTX.search(sass.ptx(CUOBJDUMP, file))
    for kernel in KERNELS_OF[file]:
        assert not [op for op in kernel.opcodes if ARCHITECTURE_ONLY.match(op)], kernel.signature
