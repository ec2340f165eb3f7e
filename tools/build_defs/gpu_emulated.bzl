"""kpt_emulated_gpu_test: kernels of gpu/ folders, their threads emulated on the CPU.

The same sources that nvcc compiles for a GPU are compiled by the host's compiler against the
emulator (kernels/base/gpu/emulator), once per wave size. What passes here has not run on a GPU.
"""

load(":tests.bzl", "kpt_cc_test")

def kpt_emulated_gpu_test(name, srcs, families = [], cuda_families = [], **kwargs):
    """One test per wave size, name_wave32 and name_wave64; of CUDA's own kernels name_wave32 alone.

    Args:
      name: what the names of the tests begin with.
      srcs: of the test.
      families: packages under //kernels whose gpu/ folders are compiled with it.
      cuda_families: and those whose cuda/ folders are.
      **kwargs: of kpt_cc_test.
    """
    for wave in [32] if cuda_families else [32, 64]:
        kpt_cc_test(
            name = "%s_wave%d" % (name, wave),
            srcs = srcs + ["//kernels/base:gpu_emulator"] +
                   ["//kernels/%s:gpu_sources" % f for f in families] +
                   ["//kernels/%s:cuda_sources" % f for f in cuda_families],
            # Hints to nvcc.
            copts = ["-Wno-unknown-pragmas"],
            local_defines = [
                "KPT_GPU_EMULATED=1",
                "KPT_EMULATED_WAVE=%d" % wave,
                "KPT_BACKEND=emulated",
            ],
            deps = ["//kernels/%s:%s_headers" % (f, f) for f in families + cuda_families] +
                   ["//tests/kernels:row_op_testing"],
            **kwargs
        )
