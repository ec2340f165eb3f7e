// Instructions that exist on Hopper alone. The launch bounds fix the registers at entry, without
// which the compiler leaves setmaxnreg out.
namespace {

__global__ void __launch_bounds__(256, 1) TunedKernel(float* y) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
  y[threadIdx.x] = 1.0f;
}

}  // namespace

void LaunchTuned(float* y) { TunedKernel<<<1, 256>>>(y); }
