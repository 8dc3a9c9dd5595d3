// libtorch's current CUDA stream, asked through the interface that every kind of device implements: it needs neither
// CUDA's headers nor its libraries, which are opened at run time or not at all.
#include <c10/core/impl/VirtualGuardImpl.h>

#include "common.h"

extern "C" char *bowline_current_cuda_stream(int device, void **stream) {
  return guarded([&] {
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    c10::Device there(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    *stream = cuda.getStreamNativeHandle(cuda.getStream(there));
  });
}
