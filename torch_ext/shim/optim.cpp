// libtorch's fused optimizer step and list operations, which tch does not bind.
//
// Every function returns null, or a message that the caller frees with free(): no exception leaves this file.

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include "common.h"

namespace {

// Nothing is recorded for gradients.
template <typename Work>
char *unrecorded(Work work) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    work();
  });
}

// The CPU kernel walks raw memory by the parameter's element count and type: all this is checked before it runs.
void check_like(const char *what, const std::vector<at::Tensor> &tensors, const std::vector<at::Tensor> &parameters) {
  for (size_t i = 0; i < tensors.size(); i++) {
    const at::Tensor &tensor = tensors[i], &parameter = parameters[i];
    TORCH_CHECK(tensor.defined(), what, " ", i, " is undefined");
    TORCH_CHECK(tensor.is_contiguous(), what, " ", i, " of shape ", tensor.sizes(), " is not contiguous");
    TORCH_CHECK(tensor.sizes() == parameter.sizes() && tensor.scalar_type() == parameter.scalar_type() &&
                    tensor.device() == parameter.device(),
                what, " ", i, " is ", tensor.scalar_type(), tensor.sizes(), " on ", tensor.device(),
                ", its parameter ", parameter.scalar_type(), parameter.sizes(), " on ", parameter.device());
    TORCH_CHECK(tensor.device() == parameters[0].device() && tensor.scalar_type() == parameters[0].scalar_type(),
                what, " ", i, " differs in type or device from the first of its group");
  }
}

// libtorch's own norm on the CPU adds the squares in a few float32 lanes, which costs millions of numbers half of their
// digits, and takes ten times as long in float64.
template <typename Number>
double sum_of_squares(const Number *numbers, int64_t count) {
  constexpr int64_t lanes = 8;
  double sums[lanes] = {};
  const int64_t whole = count - count % lanes;
  for (int64_t i = 0; i < whole; i += lanes) {
    for (int64_t lane = 0; lane < lanes; lane++) {
      const double number = static_cast<double>(numbers[i + lane]);
      sums[lane] += number * number;
    }
  }
  double total = 0;
  for (int64_t i = whole; i < count; i++) total += static_cast<double>(numbers[i]) * static_cast<double>(numbers[i]);
  for (const double sum : sums) total += sum;
  return total;
}

double norm_on_cpu(const std::vector<at::Tensor> &tensors) {
  double total = 0;
  for (const at::Tensor &tensor : tensors) {
    const at::Tensor dense = tensor.contiguous();
    AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dense.scalar_type(), "global_norm", [&] {
      total += sum_of_squares(dense.const_data_ptr<scalar_t>(), dense.numel());
    });
  }
  return std::sqrt(total);
}

// The kernels on other devices add pairwise. In their own type the norms of bfloat16 tensors would keep eight bits.
double norm_on_device(const std::vector<at::Tensor> &tensors) {
  const auto norms = at::_foreach_norm(tensors, 2, at::kFloat);
  return at::linalg_vector_norm(at::stack(norms).to(at::kDouble)).item<double>();
}

}  // namespace

extern "C" {

// Laid out as `Numbers` in src/optim.rs.
struct bowline_adamw_numbers {
  double step;
  double learning_rate;
  double beta1;
  double beta2;
  double weight_decay;
  double epsilon;
  double gradient_divisor;
};

char *bowline_fused_adamw(size_t count, Handles parameter_handles, Handles gradient_handles, Handles mean_handles,
                          Handles square_handles, const bowline_adamw_numbers *numbers) {
  return unrecorded([&] {
    const auto parameters = listed(parameter_handles, count);
    const auto gradients = listed(gradient_handles, count);
    const auto means = listed(mean_handles, count);
    const auto squares = listed(square_handles, count);
    check_like("parameter", parameters, parameters);
    check_like("gradient", gradients, parameters);
    check_like("mean", means, parameters);
    check_like("square", squares, parameters);
    const auto options = at::TensorOptions().dtype(at::kFloat).device(parameters[0].device());
    // The kernels only read the step, so that one tensor stands for all.
    const std::vector<at::Tensor> steps(count, at::full({}, numbers->step, options));
    std::optional<at::Tensor> divisor;
    if (numbers->gradient_divisor != 1.0) divisor = at::full({}, numbers->gradient_divisor, options);
    at::_fused_adamw_(parameters, gradients, means, squares, {}, steps, numbers->learning_rate, numbers->beta1,
                      numbers->beta2, numbers->weight_decay, numbers->epsilon, /*amsgrad=*/false, /*maximize=*/false,
                      divisor, /*found_inf=*/{});
  });
}

char *bowline_global_norm(size_t count, Handles handles, double *norm) {
  return unrecorded([&] {
    const auto tensors = listed(handles, count);
    for (const at::Tensor &tensor : tensors) {
      TORCH_CHECK(tensor.defined() && tensor.device() == tensors[0].device(), "a norm wants tensors on one device");
    }
    *norm = tensors[0].is_cpu() ? norm_on_cpu(tensors) : norm_on_device(tensors);
  });
}

// Counts a change in place that libtorch did not see.
char *bowline_changed(size_t count, Handles handles) {
  return guarded([&] {
    for (size_t i = 0; i < count; i++) handles[i]->unsafeGetTensorImpl()->bump_version();
  });
}

}  // extern "C"
