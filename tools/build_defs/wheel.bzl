"""kpt_wheel: the wheel, with the file name that its metadata and tag ask for."""

def manylinux_tag(oldest, host):
    """The platform tag for a module linked on this host.

    Args:
      oldest: (major, minor) of the C library that the module needs when it is linked on a host
        whose C library is not newer than `known`; make_wheel refuses a tag that is too old.
      host: "major.minor" of the host's C library. Newer ones bring newer symbol versions, which
        show only after linking: then the tag is the host's own, which is always true.

    Returns:
      e.g. "manylinux_2_34_x86_64".
    """
    version = tuple([int(v) for v in host.split(".")]) if host else oldest
    if version <= _KNOWN_HOST:
        version = oldest
    return "manylinux_%d_%d_x86_64" % version

# Debian 12. Up to this host, what the module needs is known (and tested in //tests/tools).
_KNOWN_HOST = (2, 36)

def _impl(ctx):
    out = ctx.actions.declare_file("%s-%s-%s.whl" % (ctx.attr.distribution, ctx.attr.version, ctx.attr.tag))
    files = {}
    for file in ctx.files.srcs:
        if not file.short_path.startswith(ctx.attr.strip_prefix):
            fail("%s is not under %s" % (file.short_path, ctx.attr.strip_prefix))
        files[file.short_path[len(ctx.attr.strip_prefix):]] = file.path
    spec = ctx.actions.declare_file(ctx.label.name + ".json")
    ctx.actions.write(spec, json.encode_indent(dict(
        classifiers = ctx.attr.classifiers,
        distribution = ctx.attr.distribution,
        extras = ctx.attr.extras,
        files = files,
        keywords = ctx.attr.keywords,
        license = ctx.attr.license,
        license_file = ctx.file.license_file.path,
        readme = ctx.file.readme.path,
        requires = ctx.attr.requires,
        requires_python = ctx.attr.requires_python,
        scripts = ctx.attr.scripts,
        summary = ctx.attr.summary,
        tag = ctx.attr.tag,
        version = ctx.attr.version,
    )))
    ctx.actions.run(
        executable = ctx.executable._make_wheel,
        arguments = ["--spec=" + spec.path, "--output=" + out.path],
        inputs = ctx.files.srcs + [spec, ctx.file.readme, ctx.file.license_file],
        outputs = [out],
        mnemonic = "Wheel",
        progress_message = "Packing %{label}",
        use_default_shell_env = True,
    )
    return [
        DefaultInfo(files = depset([out])),
        OutputGroupInfo(spec = depset([spec])),
    ]

kpt_wheel = rule(
    doc = "Packs a compiled wheel; every attribute is a field of its metadata.",
    implementation = _impl,
    attrs = {
        "classifiers": attr.string_list(),
        "distribution": attr.string(mandatory = True),
        "extras": attr.string_list_dict(),
        "keywords": attr.string_list(),
        "license": attr.string(mandatory = True),
        "license_file": attr.label(mandatory = True, allow_single_file = True),
        "readme": attr.label(mandatory = True, allow_single_file = True),
        "requires": attr.string_list(),
        "requires_python": attr.string(mandatory = True),
        "scripts": attr.string_dict(),
        "srcs": attr.label_list(allow_files = True),
        "strip_prefix": attr.string(),
        "summary": attr.string(mandatory = True),
        "tag": attr.string(mandatory = True),
        "version": attr.string(mandatory = True),
        "_make_wheel": attr.label(
            default = "//tools/wheel:make_wheel",
            executable = True,
            cfg = "exec",
        ),
    },
)
