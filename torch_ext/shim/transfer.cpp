// Copies between a device and host memory on a stream of their own. Streams and events go by libtorch's device-neutral
// interface, so that this file needs no CUDA header.
//
// Every function returns null, or a message that the caller frees with free(): no exception leaves this file.

#include <map>
#include <memory>
#include <mutex>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "common.h"

namespace {

using c10::impl::VirtualGuardImpl;

// As `number` in src/transfer.rs has it.
c10::Device numbered(int number) {
  return number < 0 ? c10::Device(at::kCPU) : c10::Device(at::kCUDA, static_cast<c10::DeviceIndex>(number));
}

// The stream of a device that copies go by; one for the life of the process.
c10::Stream side_stream(const VirtualGuardImpl &device_of, c10::Device device) {
  static std::mutex mutex;
  static std::map<c10::DeviceIndex, c10::Stream> streams;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = streams.find(device.index());
  if (found != streams.end()) return found->second;
  return streams.emplace(device.index(), device_of.getStreamFromGlobalPool(device, /*isHighPriority=*/false))
      .first->second;
}

// Copies on the side stream, behind what the current one has to do so far; the event is done when the copy is.
std::unique_ptr<c10::Event> copied_aside(at::Tensor &target, const at::Tensor &source, const at::Tensor &on_device) {
  const c10::Device device = on_device.device();
  const VirtualGuardImpl device_of(device.type());
  const c10::Stream side = side_stream(device_of, device);
  c10::Event ready(device.type());
  ready.record(device_of.getStream(device));
  ready.block(side);
  {
    const c10::StreamGuard guard(side);
    target.copy_(source, /*non_blocking=*/true);
  }
  // The memory must not serve anything else before the copy is done, however soon the tensor goes.
  device_of.recordDataPtrOnStream(on_device.storage().data_ptr(), side);
  auto done = std::make_unique<c10::Event>(device.type());
  done->record(side);
  return done;
}

}  // namespace

extern "C" {

// A copy of `source` in host memory, pinned where `source` is on a device; `done` is an event to wait for, or null.
char *bowline_to_host(const at::Tensor *source, at::Tensor **target, void **done) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const bool on_host = source->is_cpu();
    auto copy = std::make_unique<at::Tensor>(
        at::empty(source->sizes(), source->options().device(at::kCPU).requires_grad(false).pinned_memory(!on_host)));
    if (on_host) {
      copy->copy_(*source);
    } else {
      *done = copied_aside(*copy, *source, *source).release();
    }
    *target = copy.release();
  });
}

// A copy of `source`, which is in host memory, on a device.
char *bowline_to_device(const at::Tensor *source, int device_number, at::Tensor **target, void **done) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const c10::Device device = numbered(device_number);
    auto copy = std::make_unique<at::Tensor>(
        at::empty(source->sizes(), source->options().device(device).pinned_memory(false)));
    if (device.is_cpu()) {
      copy->copy_(*source);
    } else {
      *done = copied_aside(*copy, *source, *copy).release();
    }
    *target = copy.release();
  });
}

// The current stream of the event's device goes on behind it; the event is freed.
char *bowline_await(void *done, int device_number) {
  return guarded([&] {
    const std::unique_ptr<c10::Event> event(static_cast<c10::Event *>(done));
    const c10::Device device = numbered(device_number);
    event->block(VirtualGuardImpl(device.type()).getStream(device));
  });
}

// Frees an event that nobody waits for.
void bowline_forget_event(void *done) { delete static_cast<c10::Event *>(done); }

}  // extern "C"
