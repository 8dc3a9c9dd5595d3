// How many bytes tensors hold, on the host and on CUDA devices.
//
// Every function returns null, or a message that the caller frees with free(): no exception leaves this file.

#include <atomic>
#include <cstdint>
#include <cstring>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/alignment.h>

#include "common.h"

namespace {

std::atomic<int64_t> held{0}, most_held{0};

void count(int64_t bytes) {
  const int64_t now = held.fetch_add(bytes) + bytes;
  int64_t most = most_held.load();
  while (now > most && !most_held.compare_exchange_weak(most, now)) {
  }
}

// libtorch's own allocator.
c10::Allocator *inner = nullptr;

// Before every allocation its size is kept: so much room leaves the rest aligned as libtorch aligns it. No other place would
// do, since oneDNN frees by the address alone (Allocator::raw_deallocate).
constexpr size_t kBefore = c10::gAlignment;
static_assert(kBefore >= sizeof(int64_t));

void release(void *place) {
  if (place == nullptr) return;
  char *whole = static_cast<char *>(place) - kBefore;
  int64_t bytes;
  std::memcpy(&bytes, whole, sizeof bytes);
  held.fetch_sub(bytes);
  inner->raw_deallocate(whole);
}

// libtorch's own allocator, with a count kept. Its allocations may outlive everything, so that it is never destroyed.
class CountingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t size) override {
    const c10::Device device(c10::DeviceType::CPU);
    if (size == 0) return {nullptr, nullptr, &release, device};
    const auto bytes = static_cast<int64_t>(size);
    char *whole = static_cast<char *>(inner->raw_allocate(kBefore + size));
    std::memcpy(whole, &bytes, sizeof bytes);
    count(bytes);
    return {whole + kBefore, whole + kBefore, &release, device};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void *to, const void *from, size_t count) const override { default_copy_data(to, from, count); }
};

c10::DeviceAllocator *allocator_of_cuda() { return c10::getDeviceAllocator(c10::DeviceType::CUDA); }

}  // namespace

extern "C" {

// Counts allocations on the host from the first call on.
char *bowline_count_host_memory() {
  return guarded([] {
    static const bool counting = [] {
      inner = c10::GetCPUAllocator();
      TORCH_CHECK(inner->raw_deleter() != nullptr, "the allocator of this libtorch cannot be counted");
      c10::SetCPUAllocator(new CountingAllocator());
      return true;
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
