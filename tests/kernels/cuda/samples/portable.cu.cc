// Two kernels whose resources are known: one plain, one with an array that must lie in memory.
namespace {

__global__ void __launch_bounds__(256) PlainKernel(const float* x, float* y) {
  __shared__ float tile[256];
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = tile[255 - threadIdx.x];
}

template <int kCount>
__global__ void __launch_bounds__(64) StackKernel(const int* index, float* y) {
  float array[kCount];
  for (int i = 0; i < kCount; ++i) array[i] = static_cast<float>(index[i]);
  for (int i = 0; i < kCount; ++i) array[index[i]] += array[(index[i] + 1) % kCount];
  y[threadIdx.x] = array[index[threadIdx.x]];
}

}  // namespace

void LaunchSamples(const float* x, const int* index, float* y) {
  PlainKernel<<<1, 256>>>(x, y);
  StackKernel<64><<<1, 64>>>(index, y);
}
