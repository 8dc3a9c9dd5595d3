// State of libtorch as a whole that tch does not reach: random generators, and what fresh memory holds.
//
// Every function returns null, or a message that the caller frees with free(): no exception leaves this file.

#include <mutex>

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include "common.h"

namespace {

at::Generator generator_of(int device) {
  const at::Device place = device < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<int8_t>(device));
  return at::globalContext().defaultGenerator(place);
}

}  // namespace

extern "C" {

// State of the default generator of the CPU (-1) or of a CUDA device, as a handle of the caller's.
char *bowline_generator_state(int device, at::Tensor **state) {
  return guarded([&] {
    at::Generator generator = generator_of(device);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    *state = new at::Tensor(generator.get_state());
  });
}

char *bowline_set_generator_state(int device, const at::Tensor *state) {
  return guarded([&] {
    at::Generator generator = generator_of(device);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

// Fills a tensor with ones, each with this probability, and zeros, from a generator of its own with this seed.
char *bowline_fill_bernoulli(at::Tensor *tensor, double probability, uint64_t seed) {
  return guarded([&] {
    const int device = tensor->is_cuda() ? static_cast<int>(tensor->get_device()) : -1;
    at::Generator generator = generator_of(device).clone();
    generator.set_current_seed(seed);
    tensor->bernoulli_(probability, generator);
  });
}

// Whether new tensors without values are filled with NaN; tells in `before` whether they were.
char *bowline_poison_fresh_memory(bool enabled, bool *before) {
  return guarded([&] {
    at::Context &context = at::globalContext();
    *before = context.deterministicAlgorithms() && context.deterministicFillUninitializedMemory();
    // libtorch fills only when it is asked for deterministic algorithms too; without a mode of those it warns, no more.
    context.setDeterministicAlgorithms(enabled, /*warn_only=*/true);
    context.setDeterministicFillUninitializedMemory(enabled);
  });
}

}  // extern "C"
