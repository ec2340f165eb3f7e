"""The families that the CUDA module binds: bindings/FAMILY.cc and //kernels/FAMILY:FAMILY_cuda."""

CUDA_FAMILIES = [
    "norm",
]
