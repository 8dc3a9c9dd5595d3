// How many bytes tensors hold, on the host and on CUDA devices.
//
// Every function returns null, or a message that the caller frees with free(): no exception leaves this file.

#include <atomic>
#include <cstdint>
#include <memory>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include "common.h"

namespace {

std::atomic<int64_t> held{0}, most_held{0};

// What a counted allocation remembers: the allocation itself, which is freed with this.
struct Counted {
  c10::DataPtr data;
  int64_t bytes;

  Counted(c10::DataPtr data, size_t bytes) : data(std::move(data)), bytes(static_cast<int64_t>(bytes)) {
    const int64_t now = held.fetch_add(this->bytes) + this->bytes;
    int64_t most = most_held.load();
    while (now > most && !most_held.compare_exchange_weak(most, now)) {
    }
  }
  ~Counted() { held.fetch_sub(bytes); }
};

void forget(void *counted) { delete static_cast<Counted *>(counted); }

// libtorch's own allocator, with a count kept. Its allocations may outlive everything, so that it is never destroyed.
class CountingAllocator final : public c10::Allocator {
 public:
  explicit CountingAllocator(c10::Allocator *inner) : inner_(inner) {}

  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr data = inner_->allocate(bytes);
    void *place = data.get();
    const c10::Device device = data.device();
    return {place, new Counted(std::move(data), bytes), &forget, device};
  }

  void copy_data(void *to, const void *from, size_t count) const override { default_copy_data(to, from, count); }

 private:
  c10::Allocator *inner_;
};

c10::DeviceAllocator *allocator_of_cuda() { return c10::getDeviceAllocator(c10::DeviceType::CUDA); }

}  // namespace

extern "C" {

// Counts allocations on the host from the first call on.
char *bowline_count_host_memory() {
  return guarded([] {
    static CountingAllocator *const counting = [] {
      auto *made = new CountingAllocator(c10::GetCPUAllocator());
      c10::SetCPUAllocator(made);
      return made;
    }();
    (void)counting;
  });
}

void bowline_host_memory(int64_t *now, int64_t *peak) {
  *now = held.load();
  *peak = most_held.load();
}

void bowline_reset_host_peak() { most_held.store(held.load()); }

// Bytes of tensors and of the memory that the allocator holds for them, now and at most.
char *bowline_cuda_memory(int device, int64_t *now, int64_t *peak, int64_t *peak_reserved) {
  return guarded([&] {
    const auto stats = allocator_of_cuda()->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    const auto sum = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    *now = stats.allocated_bytes[sum].current;
    *peak = stats.allocated_bytes[sum].peak;
    *peak_reserved = stats.reserved_bytes[sum].peak;
  });
}

// Bytes of a device that programs can have, of all of them together.
char *bowline_cuda_capacity(int device, size_t *bytes) {
  return guarded([&] { *bytes = allocator_of_cuda()->getMemoryInfo(static_cast<c10::DeviceIndex>(device)).second; });
}

char *bowline_reset_cuda_peak(int device) {
  return guarded([&] { allocator_of_cuda()->resetPeakStats(static_cast<c10::DeviceIndex>(device)); });
}

}  // extern "C"
