"""Reads compiled CUDA kernels: what each takes of a multiprocessor, and the instructions it is made
of. Everything comes from cuobjdump; no GPU is involved.
"""

import collections
import dataclasses
import pathlib
import re
import subprocess

__all__ = ["LIMITS", "Kernel", "architectures", "occupancy", "ptx", "read"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel for one architecture."""

    name: str  # without namespaces and template arguments
    signature: str  # demangled
    arch: str  # "sm_90a"
    registers: int  # a thread
    stack_bytes: int  # a thread, in local memory: arrays and spilled registers
    shared_bytes: int  # a block, static, without what the driver reserves
    max_threads: int  # a block, as the launch bounds say
    opcodes: frozenset[str]  # with their modifiers: "HGMMA.64x128x16.F32.BF16"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Of a multiprocessor (CUDA programming guide, specifications by compute capability)."""

    warps: int
    blocks: int
    shared_bytes: int
    registers: int = 65536


LIMITS = {
    "sm_80": Limits(warps=64, blocks=32, shared_bytes=164 << 10),
    "sm_89": Limits(warps=48, blocks=24, shared_bytes=100 << 10),
    "sm_90a": Limits(warps=64, blocks=32, shared_bytes=228 << 10),
    "sm_100a": Limits(warps=64, blocks=32, shared_bytes=228 << 10),
    "sm_120a": Limits(warps=48, blocks=24, shared_bytes=100 << 10),
}
RESERVED_SHARED_BYTES = 1024  # of each block, by the driver, from compute capability 8.0 on

_FUNCTION = re.compile(r"^\s*Function\s*:?\s*(\S+?):?$")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")


def _run(cuobjdump: pathlib.Path, *args: object) -> str:
    command = [str(cuobjdump), *map(str, args)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def architectures(cuobjdump: pathlib.Path, file: pathlib.Path) -> list[str]:
    """Those of the machine code in an object file or library, in order and once each."""
    found = re.findall(r"\.(sm_\w+)\.cubin$", _run(cuobjdump, "--list-elf", file), re.M)
    return list(dict.fromkeys(found))


def ptx(cuobjdump: pathlib.Path, file: pathlib.Path) -> str:
    """The PTX in a file; "" where there is none."""
    if not re.search(r"\.ptx$", _run(cuobjdump, "--list-ptx", file), re.M):
        return ""
    return _run(cuobjdump, "--dump-ptx", file)


def _demangle(names: list[str]) -> dict[str, str]:
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), check=True, capture_output=True, text=True
    ).stdout
    return dict(zip(names, text.splitlines(), strict=True))


def _base_name(signature: str) -> str:
    plain = signature.replace("(anonymous namespace)", "")
    plain = plain[: plain.index("(")] if "(" in plain else plain
    plain = plain[: plain.index("<")] if "<" in plain else plain
    return re.split(r"::|\s", plain)[-1]


def _usage(text: str) -> dict[str, tuple[int, int, int]]:
    """Registers, stack and shared bytes by mangled name."""
    found, name = {}, ""
    for line in text.splitlines():
        if match := _FUNCTION.match(line):
            name = match[1]
        elif (match := _USAGE.search(line)) and name:
            registers, stack, shared, local = map(int, match.groups())
            found[name] = (registers, stack + local, shared)
            name = ""
    return found


def _opcodes(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = collections.defaultdict(set)
    name = ""
    for line in text.splitlines():
        if match := _FUNCTION.match(line):
            name = match[1]
        elif match := _INSTRUCTION.match(line):
            found[name].add(match[1])
    return found


def _max_threads(text: str) -> dict[str, int]:
    """From the attributes of each kernel's .nv.info section."""
    found, name, wanted = {}, "", False
    for line in text.splitlines():
        if match := re.match(r"^\.nv\.info\.(\S+)$", line):
            name = match[1]
        elif "EIATTR_MAX_THREADS" in line:
            wanted = True
        elif wanted and (match := re.match(r"^\s+Value:\s+(0x\w+) (0x\w+) (0x\w+)", line)):
            x, y, z = (int(n, 16) for n in match.groups())
            found[name], wanted = x * y * z, False
    return found


def read(cuobjdump: pathlib.Path, file: pathlib.Path) -> list[Kernel]:
    """Every kernel in a file, for every architecture that it has machine code for."""
    kernels = []
    for arch in architectures(cuobjdump, file):
        usage = _usage(_run(cuobjdump, "-arch", arch, "-res-usage", file))
        opcodes = _opcodes(_run(cuobjdump, "-arch", arch, "-sass", file))
        threads = _max_threads(_run(cuobjdump, "-arch", arch, "-elf", file))
        reserved = RESERVED_SHARED_BYTES if int(re.sub(r"\D", "", arch)) >= 90 else 0
        signatures = _demangle(list(usage))
        for name, (registers, stack, shared) in usage.items():
            kernels.append(
                Kernel(
                    name=_base_name(signatures[name]),
                    signature=signatures[name],
                    arch=arch,
                    registers=registers,
                    stack_bytes=stack,
                    # Counted with the kernel's own where the hardware keeps it in the same space.
                    shared_bytes=max(0, shared - reserved),
                    max_threads=threads.get(name, 1024),
                    opcodes=frozenset(opcodes[name]),
                )
            )
    return kernels


def occupancy(kernel: Kernel, block_threads: int, dynamic_bytes: int = 0) -> int:
    """Warps that a multiprocessor of the kernel's architecture holds at once, in blocks of
    `block_threads` threads with `dynamic_bytes` of dynamic shared memory each.

    Registers are handed out to a warp in units of 256, to the four quarters of a multiprocessor;
    shared memory in units of 128 bytes.
    """
    limits = LIMITS[kernel.arch]
    warps = -(-block_threads // 32)
    warp_registers = -(-kernel.registers * 32 // 256) * 256
    by_registers = 4 * (limits.registers // 4 // warp_registers) // warps
    shared = kernel.shared_bytes + dynamic_bytes + RESERVED_SHARED_BYTES
    by_shared = limits.shared_bytes // (-(-shared // 128) * 128)
    return warps * min(limits.warps // warps, limits.blocks, by_registers, by_shared)
