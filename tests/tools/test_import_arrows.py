"""The arrows between the Python packages: a layer imports only what lies below it.

Imports are read from the source (also those inside functions, which are lazy but still arrows), so
nothing is executed. Imports for type checkers alone count as well.
"""

import ast
import pathlib

import pytest

_PACKAGE = "kernel_pytorch"
_ROOT = pathlib.Path(__file__).resolve().parents[2] / "python" / _PACKAGE

# Lowest first. Layers of one row stand side by side and do not import each other. `dispatch` is the
# lower floor of backends/, the modules below; `core.management` is a public path of long standing.
_LAYERS = (
    ("core",),
    ("ops",),
    ("dispatch",),
    ("attention", "precision", "mixture_of_experts"),
    ("optimize", "hardware", "bench"),
    ("backends",),
    ("core.management",),
    ("models",),
    ("deployment", "monitoring", "validation"),
    ("demos",),
    ("cli",),
)
_RANK = {name: rank for rank, names in enumerate(_LAYERS) for name in names}

_DISPATCH = {"cpu", "cpu_probe", "cuda", "gpu_runs", "launcher", "plugins"}

# `_native` holds the compiled modules: only backends/ may load them.
_NATIVE_USERS = {"dispatch", "_native"}

# What a layer may import from outside; a layer that is not named may import anything. torch always
# brings typing_extensions.
_THIRD_PARTY = {
    "core": {"packaging", "pydantic", "tomlkit", "torch", "typing_extensions"},
    "ops": {"torch"},
}
# No module may import these at its top level: `import kernel_pytorch` must stay quick.
_NEVER_AT_IMPORT = {"fastapi", "onnx", "transformers", "uvicorn", "prometheus_client", "matplotlib"}
_STDLIB_EXTRA = {"__future__"}


def _sources():
    return sorted(_ROOT.rglob("*.py"))


def _module(path):
    parts = [_PACKAGE, *path.relative_to(_ROOT).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


def _imports(path, tree):
    """Yields (module parts, line, at top level) of every import in the file."""
    top = {id(node) for node in tree.body}
    package = _module(path) if path.name == "__init__.py" else _module(path)[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split("."), node.lineno, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            for alias in node.names:
                yield [*base, alias.name], node.lineno, id(node) in top


def _layer(parts):
    """The layer of a module; None for the package itself and its plain modules."""
    if len(parts) > 2 and ".".join(parts[1:3]) in _RANK:
        return ".".join(parts[1:3])
    if parts[1:2] == ["backends"] and (len(parts) == 2 or parts[2] in _DISPATCH):
        return "dispatch"
    return parts[1] if len(parts) > 1 and parts[1] in {*_RANK, "_native"} else None


def test_sources_are_seen():
    assert any(path.parent.name == "ops" for path in _sources())


def test_every_folder_has_a_place():
    folders = {path.relative_to(_ROOT).parts[0] for path in _sources() if path.parent != _ROOT}
    assert folders <= {*_RANK, "_native"}, "name the new layer in _LAYERS and in the architecture"


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(_ROOT)))
def test_arrows(path):
    import sys

    module = _module(path)
    layer = _layer(module)
    wrong = []
    for parts, line, top in _imports(path, ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.relative_to(_ROOT)}:{line}: {'.'.join(parts)}"
        if parts[0] != _PACKAGE:
            outside = parts[0] not in sys.stdlib_module_names | _STDLIB_EXTRA
            if outside and layer in _THIRD_PARTY and parts[0] not in _THIRD_PARTY[layer]:
                wrong.append(f"{where}: {layer} may import {sorted(_THIRD_PARTY[layer])} only")
            if top and parts[0] in _NEVER_AT_IMPORT:
                wrong.append(f"{where}: must not be imported at the top level")
            continue
        if path.name == "__init__.py" and parts[: len(module)] == module:
            continue  # a package may name its own modules
        target = _layer(parts)
        if target == "_native":
            if layer not in _NATIVE_USERS:
                wrong.append(f"{where}: only the dispatch imports _native")
        elif layer in _RANK and target is not None and target != layer:
            if _RANK[target] >= _RANK[layer]:
                wrong.append(f"{where}: {layer} must not import {target}")
        elif layer in {"core", "ops", "dispatch"} and parts == [_PACKAGE]:
            wrong.append(f"{where}: a lower layer must not import the whole package")
    assert not wrong, "\n".join(wrong)
