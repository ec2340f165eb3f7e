"""What the CUDA module is made of."""

# bindings/FAMILY.cc, compiled for CUDA, over //kernels/FAMILY:FAMILY_cuda.
CUDA_FAMILIES = [
    "activation",
    "attention",
    "norm",
    "quant",
]

# With those whose bindings stand in bindings/cuda.
CUDA_KERNELS = CUDA_FAMILIES + ["probe"]
