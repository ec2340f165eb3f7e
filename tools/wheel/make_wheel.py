"""Writes a reproducible wheel (PEP 427, core metadata 2.4) from a JSON description.

    make_wheel --spec=SPEC.json --output=NAME.whl

The same inputs give the same bytes: fixed order, times and modes, and nothing read from the
machine. Before it writes, it holds the platform tag against the compiled modules: the symbol
versions they need of the C and C++ libraries must not be newer than the tag's, and they may need
no shared library beyond what the manylinux policies allow.
"""

import base64
import hashlib
import json
import pathlib
import re
import zipfile
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from tools.wheel import elf

_SPEC = flags.DEFINE_string("spec", None, "JSON description of the wheel.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The file to write.", required=True)

# Part of every manylinux policy (PEP 600).
_ALLOWED_LIBRARIES = {
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
    "libstdc++.so.6",
}
_TIME = (1980, 1, 1, 0, 0, 0)  # the oldest a zip file can hold


def metadata(spec: dict[str, Any], description: str) -> str:
    """The METADATA file: headers, then the description."""
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {spec['distribution']}",
        f"Version: {spec['version']}",
        f"Summary: {spec['summary']}",
        f"License-Expression: {spec['license']}",
        "License-File: LICENSE",
        f"Keywords: {','.join(spec['keywords'])}",
    ]
    lines += [f"Classifier: {c}" for c in spec["classifiers"]]
    lines += [f"Requires-Python: {spec['requires_python']}"]
    lines += [f"Requires-Dist: {r}" for r in spec["requires"]]
    for extra, requirements in sorted(spec["extras"].items()):
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {r}; extra == "{extra}"' for r in requirements]
    lines.append("Description-Content-Type: text/markdown")
    return "\n".join(lines) + "\n\n" + description


def check_tag(tag: str, modules: dict[str, bytes]) -> None:
    """Raises ValueError if a compiled module needs more than the platform tag promises."""
    promised = re.search(r"manylinux_(\d+)_(\d+)_x86_64$", tag)
    if not promised:
        raise ValueError(f"{tag}: only manylinux_x_y_x86_64 is known for a compiled wheel")
    limit = (int(promised[1]), int(promised[2]))
    for name, data in modules.items():
        needs = elf.read(data)
        newest = elf.oldest_platform(needs)
        if newest > limit:
            why = ", ".join(sorted(version for _, version in needs.versions))
            raise ValueError(f"{name} needs manylinux_{newest[0]}_{newest[1]}, not {tag}: {why}")
        foreign = set(needs.needed) - _ALLOWED_LIBRARIES
        if foreign:
            raise ValueError(f"{name} needs {sorted(foreign)}, which {tag} does not allow")


def build(spec: dict[str, Any], output: pathlib.Path) -> None:
    """Writes the wheel that `spec` describes; its `files` map archive names to paths."""
    files = {name: pathlib.Path(path).read_bytes() for name, path in spec["files"].items()}
    check_tag(spec["tag"], {n: d for n, d in files.items() if n.endswith(".so")})
    description = pathlib.Path(spec["readme"]).read_text(encoding="utf-8")
    info = f"{spec['distribution']}-{spec['version']}.dist-info"
    files[f"{info}/METADATA"] = metadata(spec, description).encode()
    files[f"{info}/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: kernel_pytorch make_wheel\n"
        f"Root-Is-Purelib: false\nTag: {spec['tag']}\n"
    ).encode()
    scripts = [f"{name} = {target}\n" for name, target in sorted(spec["scripts"].items())]
    files[f"{info}/entry_points.txt"] = ("[console_scripts]\n" + "".join(scripts)).encode()
    files[f"{info}/licenses/LICENSE"] = pathlib.Path(spec["license_file"]).read_bytes()

    record = []
    for name in sorted(files):
        digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
        record.append(f"{name},sha256={digest.decode()},{len(files[name])}\n")
    record.append(f"{info}/RECORD,,\n")
    files[f"{info}/RECORD"] = "".join(record).encode()

    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        # The dist-info goes last, as PEP 427 recommends.
        for name in sorted(files, key=lambda n: (n.startswith(info), n)):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.create_system = 3  # Unix, on whatever system this runs
            entry.compress_type = zipfile.ZIP_DEFLATED
            mode = 0o755 if name.endswith(".so") else 0o644
            entry.external_attr = (0o100000 | mode) << 16
            archive.writestr(entry, files[name])


def main(argv: Sequence[str]) -> None:
    del argv
    spec = json.loads(pathlib.Path(_SPEC.value).read_text(encoding="utf-8"))
    build(spec, pathlib.Path(_OUTPUT.value))


if __name__ == "__main__":
    app.run(main)
