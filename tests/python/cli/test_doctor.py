"""kpt doctor: what it finds, what it says to do, its exit codes. Times decide nothing here."""

import json

import pytest
import torch

from kernel_pytorch.backends import cpu, cuda
from kernel_pytorch.cli.doctor import (
    cuda_kernels,
    drivers,
    hardware,
    memory,
    page_faults,
    processor,
    software,
    threads,
)
from kernel_pytorch.cli.doctor.finding import Finding, Status
from kernel_pytorch.core.errors import NativeUnavailableError


@pytest.fixture
def quick(monkeypatch):
    """Memory is not measured: it takes seconds, and has tests of its own."""
    found = Finding(area="memory", name="fresh 64 MB output", value="measured elsewhere")
    monkeypatch.setattr(memory, "check", lambda say: [found])


def _findings(result):
    return {(f["area"], f["name"]): f for f in json.loads(result.stdout)["findings"]}


def test_report(kpt, quick):
    found = _findings(kpt("doctor", "--json"))
    assert found["software", "PyTorch"]["data"]["version"] == torch.__version__
    module = found["software", "compiled module"]
    assert module["data"]["boundary"] == cpu.boundary()
    assert module["data"]["file"].endswith("cpu.abi3.so")
    operators = found["software", "operators"]["data"]
    assert operators["native"] == operators["operators"] and not operators["references"]
    levels = found["cpu", "instruction sets"]["data"]
    assert levels["detected"] == cpu.detected_isa()
    profile = found["hardware", "profile"]["data"]
    assert profile["backend"] in {"cpu", "nvidia", "amd", "tpu", "intel"}
    count = found["threads", "count"]["data"]
    assert count["torch_threads"] == torch.get_num_threads()
    assert len(found["threads", "OpenMP"]["data"]["openmp_runtimes"]) == 1
    gpus = {name for area, name in found if area == "gpus"}
    assert gpus == {"NVIDIA", "AMD", "Intel", "CUDA kernels"}
    for finding in found.values():
        assert (finding["status"] == "ok") == (finding["why"] == ""), finding


@pytest.mark.parametrize("columns", ["60", "80", "120"])
def test_table(kpt, quick, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    text = kpt("doctor").stdout
    for word in ("software", "cpu", "threads", "memory", "gpus", "PyTorch", "problem"):
        assert word in text


def test_exit_codes(kpt, quick, monkeypatch):
    def only(*statuses):
        findings = [Finding(area="cpu", name=s.value, value="", status=s) for s in statuses]
        monkeypatch.setattr(software, "check", lambda say: findings)
        for module in (processor, threads, hardware, drivers):
            monkeypatch.setattr(module, "check", list)

    only(Status.OK)
    assert kpt("doctor").exit_code == 0 and "no problems" in kpt("doctor").stdout
    only(Status.OK, Status.ADVICE)
    assert kpt("doctor").exit_code == 0
    assert kpt("doctor", "--strict").exit_code == 1
    only(Status.ADVICE, Status.PROBLEM)
    result = kpt("doctor", "--json")
    assert result.exit_code == 1 == json.loads(result.stdout)["exit_code"]


def test_a_lowered_instruction_set_is_a_problem(run):
    if cpu.detected_isa() == "baseline":
        pytest.skip("this CPU has no higher level")
    code = (
        "import sys\nfrom kernel_pytorch.cli.doctor import memory\n"
        "memory.check = lambda say: []\n"
        "from kernel_pytorch import cli\nsys.exit(cli.main(['doctor', '--json']))"
    )
    exit_code, out, err = run(code=code, KPT_ISA="baseline")
    assert exit_code == 1, err
    found = next(f for f in json.loads(out)["findings"] if f["name"] == "instruction sets")
    assert found["status"] == "problem" and found["fix"] == "unset KPT_ISA"
    exit_code, out, err = run(code=code, KPT_ISA="nonsense")
    assert exit_code == 1, err
    found = next(f for f in json.loads(out)["findings"] if f["name"] == "compiled module")
    assert "unknown ISA level 'nonsense'" in found["why"] and found["fix"] == "unset KPT_ISA"


def test_more_threads_than_cores_is_a_problem():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 64)
    try:
        found = threads.check()[0]
    finally:
        torch.set_num_threads(before)
    assert found.status is Status.PROBLEM and found.fix.startswith("export OMP_NUM_THREADS=")


def test_quota_and_cores(tmp_path):
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    assert threads.cpu_quota(tmp_path) is None
    (group / "cpu.max").write_text("max 100000\n")
    assert threads.cpu_quota(tmp_path) is None
    (group / "cpu.max").write_text("150000 100000\n")
    assert threads.cpu_quota(tmp_path) == 1.5
    assert threads.physical_cores({0, 1, 2}, tmp_path) == 3
    for cpu_index, siblings in enumerate(["0,2", "1", "0,2"]):
        topology = tmp_path / f"sys/devices/system/cpu/cpu{cpu_index}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    assert threads.physical_cores({0, 1, 2}, tmp_path) == 2


def test_openmp_runtimes_in_a_process_map():
    maps = (
        "7f00-7f01 r-xp 0 08:01 1   /usr/lib/torch/lib/libgomp-a34b.so.1\n"
        "7f01-7f02 r--p 0 08:01 1   /usr/lib/torch/lib/libgomp-a34b.so.1\n"
        "7f02-7f03 r-xp 0 08:01 2   /opt/conda/lib/libiomp5.so\n"
        "7f03-7f04 r-xp 0 08:01 3   /usr/lib/libomptest.txt\n"
    )
    assert threads.openmp_runtimes(maps) == [
        "/opt/conda/lib/libiomp5.so",
        "/usr/lib/torch/lib/libgomp-a34b.so.1",
    ]


def test_the_named_allocator_setting_removes_the_page_faults():
    """Counts of faults, not times: of the settings tried, one leaves nearly none."""
    before = memory.measure({"PATH": "/usr/bin"})
    assert before.faults > 0.9 * page_faults.SIZE / (2 << 20)
    costs = [memory.measure({"GLIBC_TUNABLES": value}) for value in memory.settings({}).values()]
    assert min(c.faults for c in costs) < 0.05 * before.faults


_SLOW = memory.Cost(0.040, 0.003, 16385)
_QUICK = memory.Cost(0.003, 0.003, 0)


def test_a_measured_setting_is_named(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=1")

    def measure(environment):
        assert environment["GLIBC_TUNABLES"].startswith("glibc.malloc.arena_max=1")
        return _QUICK if "mmap_threshold" in environment["GLIBC_TUNABLES"] else _SLOW

    monkeypatch.setattr(memory, "measure", measure)
    (found,) = memory.check()
    assert found.status is Status.ADVICE
    assert found.fix == (
        "export GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=4294967296:"
        "glibc.malloc.trim_threshold=8589934592"
    )
    assert "keeps memory that it frees" in found.why and len(found.data["tried"]) == 3


@pytest.mark.parametrize(("cost", "status"), [(_QUICK, Status.OK), (_SLOW, Status.ADVICE)])
def test_no_setting_is_named_without_need_or_effect(monkeypatch, cost, status):
    monkeypatch.setattr(memory, "measure", lambda environment: cost)
    (found,) = memory.check()
    assert found.status is status and found.fix == ""


def test_a_failing_measurement_is_told(monkeypatch):
    def fails(environment):
        raise OSError("no memory")

    monkeypatch.setattr(memory, "measure", fails)
    (found,) = memory.check()
    assert found.status is Status.ADVICE and "no memory" in found.why


@pytest.mark.parametrize(
    ("cause", "fix"),
    [
        (ModuleNotFoundError("", name="nanobind_backend"), "pip install 'nanobind-backend"),
        (ImportError("bad file"), ""),
    ],
)
def test_how_to_mend_the_module(cause, fix):
    error = NativeUnavailableError("it does not load")
    error.__cause__ = cause
    assert fix in software.module_fix(error) and software.module_fix(error)
    assert software.module_fix(NativeUnavailableError("KPT_ISA: unknown")) == "unset KPT_ISA"


def _machine(root, *, vendor, kind="0x030200", module="", nodes=(), system="ubuntu"):
    device = root / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(vendor + "\n")
    (device / "class").write_text(kind + "\n")
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text(f'NAME="x"\nID={system}\n')
    if module:
        (root / "sys/module" / module).mkdir(parents=True)
        (root / "sys/module" / module / "version").write_text("580.1\n")
    for node in nodes:
        (root / "dev" / node).parent.mkdir(parents=True, exist_ok=True)
        (root / "dev" / node).touch()
    return root


def _check(root, monkeypatch, libraries=()):
    monkeypatch.setattr(drivers, "loadable", lambda names: [n for n in names if n in libraries])
    return {f.name: f for f in drivers.check(root)}


def test_no_gpu(tmp_path, monkeypatch):
    for found in _check(tmp_path, monkeypatch).values():
        assert (found.value, found.status) == ("none", Status.OK)


@pytest.mark.parametrize(
    ("machine", "libraries", "why", "fix"),
    [
        ({}, (), "No kernel module", "sudo ubuntu-drivers install"),
        ({"system": "debian"}, (), "No kernel module", "sudo apt-get install nvidia-driver"),
        ({"module": "nvidia"}, (), "no device file", "nvidia-modprobe"),
        ({"module": "nvidia", "nodes": ("nvidia0",)}, (), "does not load", "--gpus all"),
        (
            {"module": "nvidia", "nodes": ("nvidia0",)},
            ("libcuda.so.1",),
            "This build of PyTorch cannot use",
            "pip install --force-reinstall torch",
        ),
    ],
)
def test_nvidia(tmp_path, monkeypatch, machine, libraries, why, fix):
    monkeypatch.setattr(torch.version, "cuda", None)
    root = _machine(tmp_path, vendor="0x10de", **machine)
    found = _check(root, monkeypatch, libraries)
    assert found["NVIDIA"].status is Status.ADVICE
    assert why in found["NVIDIA"].why and fix in found["NVIDIA"].fix
    assert found["AMD"].value == found["Intel"].value == "none"


def test_nvidia_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    root = _machine(tmp_path, vendor="0x10de", module="nvidia", nodes=("nvidia0",))
    found = _check(root, monkeypatch, ("libcuda.so.1",))["NVIDIA"]
    assert found.status is Status.OK and "580.1" in found.value
    assert found.data["gpus"] == ["0000:01:00.0"]


def test_amd_and_intel(tmp_path, monkeypatch):
    root = _machine(tmp_path / "a", vendor="0x1002", kind="0x120000", module="amdgpu")
    assert _check(root, monkeypatch)["AMD"].fix.startswith("sudo usermod -aG render")
    root = _machine(tmp_path / "i", vendor="0x8086", module="xe", nodes=("dri/renderD128",))
    assert "libze" in _check(root, monkeypatch)["Intel"].fix
    root = _machine(tmp_path / "n", vendor="0x8086", kind="0x020000")  # a network card
    assert _check(root, monkeypatch)["Intel"].value == "none"


def test_libraries_are_asked_of_the_loader():
    assert drivers.loadable(["libc.so.6", "libnothing-of-the-kind.so.9"]) == ["libc.so.6"]


def test_hardware_names_every_accelerator():
    from kernel_pytorch.core.hardware_detector import Accelerator, HardwareType, PeerLink, tables

    found = hardware._accelerator(
        Accelerator(
            hardware_type=HardwareType.NVIDIA_GPU,
            index=1,
            name="NVIDIA L4",
            architecture="ada",
            target="sm_89",
            memory_bytes=24 << 30,
            links=(PeerLink(peer=0, kind="pcie"),),
            traits=tables.nvidia_traits((8, 9)),
            usable=False,
            why_not="this PyTorch is not built for CUDA",
        )
    )
    assert found.name == "nvidia_gpu 1" and found.status is Status.OK
    for words in ("L4, ada, sm_89, 24 GiB", "fp8_e4m3", "pcie to 0", "not built for CUDA"):
        assert words in found.value
    assert "8.9" in found.data["source"]


@pytest.mark.parametrize(
    ("capabilities", "problem", "gpus", "status", "text"),
    [
        ((), "no NVIDIA driver (libcuda.so.1) is installed", 0, Status.OK, "no NVIDIA driver"),
        ((), "no NVIDIA driver (libcuda.so.1) is installed", 1, Status.ADVICE, "no GPU to run on"),
        (((9, 0),), "", 1, Status.OK, "compute capability 9.0"),
        (((8, 0), (7, 5)), "", 2, Status.ADVICE, "compute capability 8.0 and later"),
    ],
)
def test_cuda_kernels(monkeypatch, capabilities, problem, gpus, status, text):
    monkeypatch.setattr(cuda, "runtime_version", lambda: "13.0")
    monkeypatch.setattr(cuda, "devices", lambda: cuda.Devices(capabilities, problem))
    (found,) = cuda_kernels.check(gpus)
    assert found.status is status and text in f"{found.value} {found.why}"
    assert found.data["capabilities"] == [f"{a}.{b}" for a, b in capabilities]


@pytest.mark.parametrize(("gpus", "status"), [(0, Status.OK), (1, Status.ADVICE)])
def test_cuda_kernels_that_are_not_in_this_build(monkeypatch, gpus, status):
    def missing():
        raise NativeUnavailableError("kernel_pytorch._native.cuda does not load")

    monkeypatch.setattr(cuda, "runtime_version", missing)
    (found,) = cuda_kernels.check(gpus)
    assert found.status is status and found.data == {"loads": False}
    assert "references run" in f"{found.value} {found.why}"
    assert bool(found.fix) == (status is Status.ADVICE)
