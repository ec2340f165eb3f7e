// The backend that a file is compiled for. An operator's header declares its arguments and its
// functions in namespace kpt::KPT_BACKEND; the bindings of a family are compiled once a backend and
// name it kpt::backend.
//
// The build of a GPU backend defines KPT_BACKEND (cuda) and KPT_BACKEND_IS_CUDA; nothing else does.
#ifndef KPT_KERNELS_BASE_BACKEND_H_
#define KPT_KERNELS_BASE_BACKEND_H_

#ifndef KPT_BACKEND
#define KPT_BACKEND cpu
#endif

namespace kpt {
namespace KPT_BACKEND {}
namespace backend = KPT_BACKEND;
}  // namespace kpt

#endif  // KPT_KERNELS_BASE_BACKEND_H_
