// KPT_HOST_DEVICE: on functions that kernels of a GPU call too. Nothing for a plain C++ compiler.
#ifndef KPT_KERNELS_BASE_HOST_DEVICE_H_
#define KPT_KERNELS_BASE_HOST_DEVICE_H_

#if defined(__CUDACC__)
#define KPT_HOST_DEVICE __host__ __device__
#elif defined(__HIP__)
#define KPT_HOST_DEVICE __attribute__((host)) __attribute__((device))
#else
#define KPT_HOST_DEVICE
#endif

#endif  // KPT_KERNELS_BASE_HOST_DEVICE_H_
