"""Repositories made from Python packages, fetched with the host's pip.

pip decides where packages come from (its own configuration), so no address is named here; every
file is checked against the hashes in the lock file.
"""

_ENV = ["PYTHON_BIN_PATH"]
_NO_PIP = "this python has no pip (Debian and Ubuntu: apt-get install python3-pip): "

def _run(rctx, args, environment = {}):
    result = rctx.execute(args, timeout = 3600, environment = environment)
    if result.return_code:
        fail("failed (%d): %s\n%s%s" % (
            result.return_code,
            " ".join([str(a) for a in args]),
            result.stdout,
            result.stderr,
        ))
    return result.stdout

def _find_python(rctx):
    name = rctx.os.environ.get("PYTHON_BIN_PATH", "python3")
    path = name if name.startswith("/") else rctx.which(name)
    if not path:
        fail("no python3 on PATH; install it or set PYTHON_BIN_PATH")

    # Resolve shims (pyenv) and links to the real interpreter.
    return _run(rctx, [path, "-c", "import sys; print(sys.executable)"]).strip()

def _check_pip(rctx, python):
    if rctx.execute([python, "-m", "pip", "--version"]).return_code:
        fail(_NO_PIP + python)

def _pip(rctx, python, args):
    # pip unpacks in the folder for temporary files, and /tmp is often too small for torch.
    rctx.file("tmp/.keep", "")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    _run(rctx, pip + args, {"TMPDIR": str(rctx.path("tmp"))})
    rctx.delete("tmp")

def _install(rctx, python, what):
    """Installs a wheel, or what a lock file names, into site-packages."""
    _pip(rctx, python, [
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--no-compile",
        "--target",
        "site-packages",
    ] + what)

def _install_lock(rctx, python, lock):
    rctx.report_progress("pip install -r %s" % lock.basename)
    _install(rctx, python, ["--require-hashes", "--requirement", str(lock)])

def _unpack_impl(rctx):
    python = _find_python(rctx)
    _check_pip(rctx, python)
    _install_lock(rctx, python, rctx.path(rctx.attr.lock))
    rctx.file("BUILD.bazel", rctx.read(rctx.attr.build_file))

unpack = repository_rule(
    doc = "Installs a locked closure into one folder, site-packages.",
    implementation = _unpack_impl,
    attrs = {
        "build_file": attr.label(mandatory = True, allow_single_file = True),
        "lock": attr.label(mandatory = True, allow_single_file = True),
    },
    environ = _ENV,
)

# Two builds of the same torch are locked. Asked with hashes, pip prefers the files whose hash the
# index shows, so a CPU-only build in a local wheel folder would lose to the index's CUDA build (4
# GB more). So pip first says freely what it would take, and the hash is checked here.
_CHECK = """\
import hashlib, pathlib, re, sys
lock = pathlib.Path(sys.argv[1]).read_text()
entry = re.search(r"^torch==.*?(?=^\\S|\\Z)", lock, re.M | re.S).group()
pathlib.Path("rest.lock").write_text(lock.replace(entry, ""))
wheel = next(pathlib.Path("wheel").glob("torch-*.whl"))
digest = hashlib.sha256()
with wheel.open("rb") as file:
    while block := file.read(1 << 20):
        digest.update(block)
sys.stdout.write(str(wheel) if digest.hexdigest() in entry else "")
"""

# A CPU build of torch imports without the CUDA packages; the package index's default build for
# x86-64 Linux does not. Which of the two it is shows in its metadata.
_NEEDS_CUDA = """\
import pathlib, re, sys
metadata = next(pathlib.Path("site-packages").glob("torch-*.dist-info/METADATA")).read_text()
needs = re.findall(r"^Requires-Dist: (?:nvidia-|cuda-)", metadata, re.M)
sys.stdout.write("yes" if needs else "no")
"""

def _torch_impl(rctx):
    python = _find_python(rctx)
    requirement = [
        line.split(" ")[0]
        for line in rctx.read(rctx.attr.lock).split("\n")
        if line.startswith("torch==")
    ][0]
    _check_pip(rctx, python)
    rctx.report_progress("pip download " + requirement)
    _pip(rctx, python, [
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        "wheel",
        requirement,
    ])
    wheel = _run(rctx, [python, "-c", _CHECK, str(rctx.path(rctx.attr.lock))])
    if wheel:
        _install(rctx, python, [wheel])
        _install_lock(rctx, python, rctx.path("rest.lock"))
    else:
        # Some other build of this version: have pip look for one that is locked.
        _install_lock(rctx, python, rctx.path(rctx.attr.lock))
    rctx.delete("wheel")
    if _run(rctx, [python, "-c", _NEEDS_CUDA]) == "yes":
        _install_lock(rctx, python, rctx.path(rctx.attr.cuda_lock))
    rctx.file("BUILD.bazel", rctx.read(rctx.attr.build_file))

torch = repository_rule(
    doc = "torch with its closure; the CUDA packages only when the build of torch needs them.",
    implementation = _torch_impl,
    attrs = {
        "build_file": attr.label(mandatory = True, allow_single_file = True),
        "cuda_lock": attr.label(mandatory = True, allow_single_file = True),
        "lock": attr.label(mandatory = True, allow_single_file = True),
    },
    environ = _ENV,
)

_UNZIP = """\
import pathlib, zipfile
for wheel in sorted(pathlib.Path("wheels").iterdir()):
    zipfile.ZipFile(wheel).extractall("site-packages")
"""

def _every_python_impl(rctx):
    python = _find_python(rctx)
    _check_pip(rctx, python)
    for version in rctx.attr.versions:
        rctx.report_progress("pip download for python " + version)
        _pip(rctx, python, [
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--python-version",
            version,
            "--require-hashes",
            "--dest",
            "wheels",
            "--requirement",
            str(rctx.path(rctx.attr.lock)),
        ])
    _run(rctx, [python, "-c", _UNZIP])
    rctx.delete("wheels")
    rctx.file("BUILD.bazel", rctx.read(rctx.attr.build_file))

every_python = repository_rule(
    doc = "One folder with the wheels of several Pythons laid over each other: for a package " +
          "whose wheels differ only in modules whose names carry the Python they are for.",
    implementation = _every_python_impl,
    attrs = {
        "build_file": attr.label(mandatory = True, allow_single_file = True),
        "lock": attr.label(mandatory = True, allow_single_file = True),
        "versions": attr.string_list(mandatory = True),
    },
    environ = _ENV,
)

# The interpreter alone: registering its toolchain must not download anything, because every
# build loads every registered toolchain's package.
_PYTHON_BUILD = '''\
load("@rules_cc//cc:defs.bzl", "cc_library")
load("@rules_python//python:defs.bzl", "py_runtime", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

exports_files(["host.bzl"])

cc_library(
    name = "headers",
    hdrs = glob(["include*/**/*.h"]),
    includes = {includes},
)

py_runtime(
    name = "runtime",
    interpreter_path = "{python}",
    python_version = "PY3",
    stub_shebang = "#!{python}",
)

py_runtime_pair(
    name = "runtime_pair",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtime_pair",
    toolchain_type = "@rules_python//python:toolchain_type",
)
'''

_ASK = """\
import os, sys, sysconfig
libc = os.confstr("CS_GNU_LIBC_VERSION") if hasattr(os, "confstr") else None
print(sysconfig.get_path("include"))
print("%d.%d" % sys.version_info[:2])
print(libc.split()[1] if libc else "")
"""

def _python_headers(rctx, include, version):
    """Links the interpreter's headers, or unpacks Debian's package of them into the repository."""
    if rctx.path(include).get_child("Python.h").exists:
        rctx.symlink(include, "include")
        return ["include"]
    package = "libpython%s-dev" % version
    missing = "%s/Python.h is missing; install the headers of python %s (Debian and Ubuntu: %s)" % (
        include,
        version,
        package,
    )
    if not rctx.which("apt-get") or not rctx.which("dpkg"):
        fail(missing)
    result = rctx.execute(["sh", "-ec", """
        mkdir deb && cd deb
        apt-get -q -o APT::Sandbox::User=root download "$1" >&2
        for deb in *.deb; do dpkg -x "$deb" root; done
        mv root/usr/include/python* ../include
        mv root/usr/include/*-linux-gnu ../include_arch
        cd .. && rm -r deb""", "sh", package])
    if result.return_code:
        fail(missing + "\n" + result.stderr)

    # Debian's pyconfig.h includes <x86_64-linux-gnu/python3.X/pyconfig.h>.
    rctx.file("include_root/.keep", "")
    arch = _run(rctx, ["sh", "-c", "gcc -print-multiarch 2>/dev/null || echo x86_64-linux-gnu"])
    rctx.symlink("include_arch", "include_root/" + arch.strip())
    return ["include", "include_root"]

def _python_impl(rctx):
    python = _find_python(rctx)
    include, version, glibc = _run(rctx, [python, "-c", _ASK]).split("\n")[:3]
    if [int(v) for v in version.split(".")] < [3, 10]:
        fail("%s is Python %s; 3.10 or newer is needed (set PYTHON_BIN_PATH)" % (python, version))
    includes = _python_headers(rctx, include, version)
    rctx.file("host.bzl", 'HOST_GLIBC = "%s"\nHOST_PYTHON = "%s"\n' % (glibc, version))
    rctx.file("BUILD.bazel", _PYTHON_BUILD.format(python = python, includes = repr(includes)))

python = repository_rule(
    doc = "The host's Python: interpreter toolchain, headers, and host.bzl with what it reports.",
    implementation = _python_impl,
    environ = _ENV,
    local = True,
)

def _pypi_impl(mctx):
    for mod in mctx.modules:
        for tag in mod.tags.python:
            python(name = tag.name)
        for tag in mod.tags.unpack:
            unpack(name = tag.name, lock = tag.lock, build_file = tag.build_file)
        for tag in mod.tags.every_python:
            every_python(
                name = tag.name,
                lock = tag.lock,
                build_file = tag.build_file,
                versions = tag.versions,
            )
        for tag in mod.tags.torch:
            torch(
                name = tag.name,
                lock = tag.lock,
                cuda_lock = tag.cuda_lock,
                build_file = tag.build_file,
            )

_UNPACK = {
    "build_file": attr.label(mandatory = True),
    "lock": attr.label(mandatory = True),
    "name": attr.string(mandatory = True),
}

pypi = module_extension(
    implementation = _pypi_impl,
    tag_classes = {
        "every_python": tag_class(attrs = dict(
            _UNPACK,
            versions = attr.string_list(mandatory = True),
        )),
        "python": tag_class(attrs = {"name": attr.string(mandatory = True)}),
        "torch": tag_class(attrs = dict(_UNPACK, cuda_lock = attr.label(mandatory = True))),
        "unpack": tag_class(attrs = _UNPACK),
    },
)
