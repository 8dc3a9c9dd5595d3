// What every file of the shim needs at its border with Rust.
#pragma once

#include <cstdlib>
#include <cstring>
#include <exception>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

// Tensors as tch holds them: pointers to libtorch's own handles.
using Handles = const at::Tensor *const *;

inline std::vector<at::Tensor> listed(Handles handles, size_t count) {
  std::vector<at::Tensor> tensors;
  tensors.reserve(count);
  for (size_t i = 0; i < count; i++) tensors.push_back(*handles[i]);
  return tensors;
}

// Runs `work`; null, or a message that the caller frees with free(): no exception gets past it.
template <typename Work>
char *guarded(Work work) {
  try {
    work();
    return nullptr;
  } catch (const c10::Error &error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception &error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of unknown type");
  }
}
