// Nodes of libtorch's graph whose backward is a Rust closure; backward passes with given gradients.
//
// Every function returns null, or a message that the caller frees with free(): no exception leaves this file, except
// those of a node's backward, which libtorch's engine catches on whichever thread it runs it.

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/autograd/variable.h>

#include "common.h"

namespace {

using torch::autograd::Edge;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

}  // namespace

extern "C" {

// Laid out as `Call` in src/autograd/node.rs. The handles are the callee's to free; null stands for no gradient.
struct bowline_call {
  size_t saved_count;
  at::Tensor **saved;
  size_t gradient_count;
  at::Tensor **gradients;
  size_t input_count;
  const bool *wanted;
  at::Tensor **results;  // One for each input, null at first; the caller frees what is put here.
};

// Laid out as `Closure` in src/autograd/node.rs.
struct bowline_closure {
  void *data;
  char *(*run)(void *data, const bowline_call *call);  // Null, or a message for free().
  void (*drop)(void *data);
};

}  // extern "C"

namespace {

// A handle for Rust, which tells libtorch's undefined tensor by null.
at::Tensor *handle(const at::Tensor &tensor) { return tensor.defined() ? new at::Tensor(tensor) : nullptr; }

struct RustNode final : Node {
  RustNode(std::string name, bowline_closure closure, torch::autograd::edge_list &&edges)
      : Node(std::move(edges)), name_(std::move(name)), closure_(closure) {}

  // Whatever the closure and the saved tensors hold dies with the graph.
  ~RustNode() override { forget(); }

  std::string name() const override { return name_; }

  // The engine calls this after a backward that does not keep the graph.
  void release_variables() override {
    std::lock_guard<std::mutex> lock(mutex_);
    saved_.clear();
    forget();
  }

  variable_list apply(variable_list &&gradients) override {
    std::lock_guard<std::mutex> lock(mutex_);
    if (closure_.data == nullptr) {
      fail("its graph was freed by an earlier backward; keep the graph to go through it again");
    }
    if (at::GradMode::is_enabled()) fail("gradients of its gradients are not to be had (create_graph is set)");
    return call(gradients);
  }

  std::vector<SavedVariable> saved_;

 private:
  [[noreturn]] void fail(const std::string &reason) const {
    throw std::runtime_error("the backward of " + name_ + ": " + reason);
  }

  variable_list call(const variable_list &gradients) {
    std::vector<at::Tensor> unpacked;
    unpacked.reserve(saved_.size());
    // Throws where a saved tensor was changed in place since, before anything is handed over.
    for (const SavedVariable &saved : saved_) unpacked.push_back(saved.unpack(shared_from_this()));
    std::vector<at::Tensor *> saved_handles, gradient_handles, results(num_outputs(), nullptr);
    const auto wanted = std::make_unique<bool[]>(num_outputs());
    for (size_t i = 0; i < num_outputs(); i++) wanted[i] = task_should_compute_output(i);
    for (const at::Tensor &tensor : unpacked) saved_handles.push_back(handle(tensor));
    for (const at::Tensor &tensor : gradients) gradient_handles.push_back(handle(tensor));
    const bowline_call call{saved_handles.size(),    saved_handles.data(), gradient_handles.size(),
                            gradient_handles.data(), results.size(),       wanted.get(),
                            results.data()};
    char *message = closure_.run(closure_.data, &call);
    variable_list answers(results.size());
    for (size_t i = 0; i < results.size(); i++) {
      const std::unique_ptr<at::Tensor> result(results[i]);
      if (result) answers[i] = *result;
    }
    if (message != nullptr) {
      const std::string reason(message);
      free(message);
      fail(reason);
    }
    return answers;
  }

  void forget() {
    if (closure_.data != nullptr) closure_.drop(std::exchange(closure_.data, nullptr));
  }

  std::string name_;
  bowline_closure closure_;
};

}  // namespace

extern "C" {

// Makes `outputs` the answer of a new node over `inputs`; each handle in `outputs` is replaced by one that shares its
// storage and has a history. Takes the closure in any case.
char *bowline_record(const char *name, size_t input_count, Handles inputs, size_t output_count, at::Tensor **outputs,
                     size_t saved_count, Handles saved, bowline_closure closure) {
  return guarded([&] {
    struct Taken {
      bowline_closure closure;
      ~Taken() {
        if (closure.data != nullptr) closure.drop(closure.data);
      }
    } taken{closure};
    torch::autograd::edge_list edges;
    for (size_t i = 0; i < input_count; i++) {
      edges.push_back(inputs[i]->requires_grad() ? torch::autograd::impl::gradient_edge(*inputs[i]) : Edge());
    }
    // The deleter takes deep graphs apart without recursion.
    const std::shared_ptr<RustNode> node(new RustNode(name, taken.closure, std::move(edges)),
                                         torch::autograd::deleteNode);
    taken.closure.data = nullptr;
    std::vector<at::Tensor> results;
    for (size_t i = 0; i < output_count; i++) {
      // A handle of its own: the output may be an input, a view of one, or held by the closure, and a history on that
      // would be a wrong one or a circle.
      results.push_back(outputs[i]->variable_data());
      torch::autograd::set_history(results[i], node);
    }
    for (size_t i = 0; i < saved_count; i++) {
      size_t which = 0;
      while (which < output_count && !outputs[which]->is_same(*saved[i])) which++;
      const bool is_output = which < output_count;
      node->saved_.emplace_back(is_output ? results[which] : *saved[i], is_output);
    }
    for (size_t i = 0; i < output_count; i++) *outputs[i] = results[i];
  });
}

// Adds to the gradients of the leaves under `roots`, whose own gradients are given (null for none).
char *bowline_backward(size_t count, Handles roots, Handles gradients) {
  return guarded([&] {
    variable_list of_roots;
    for (size_t i = 0; i < count; i++) of_roots.push_back(gradients[i] == nullptr ? at::Tensor() : *gradients[i]);
    torch::autograd::backward(listed(roots, count), of_roots, /*retain_graph=*/false);
  });
}

}  // extern "C"

extern "C" {

// Laid out as `Hook` in src/autograd/hook.rs.
struct bowline_hook {
  void *data;
  char *(*run)(void *data);  // Null, or a message for free().
  void (*drop)(void *data);
};

}  // extern "C"

namespace {

struct RustHook final : torch::autograd::PostAccumulateGradHook {
  explicit RustHook(bowline_hook hook) : hook_(hook) {}
  RustHook(const RustHook &) = delete;
  RustHook &operator=(const RustHook &) = delete;
  ~RustHook() override { hook_.drop(hook_.data); }

  void operator()(const at::Tensor &) override {
    if (char *message = hook_.run(hook_.data)) {
      const std::string reason(message);
      free(message);
      throw std::runtime_error(reason);
    }
  }

 private:
  bowline_hook hook_;
};

}  // namespace

extern "C" {

// Calls `hook` after each addition to the gradient of `leaf`. Takes the hook in any case.
char *bowline_hook_gradient(const at::Tensor *leaf, bowline_hook hook) {
  return guarded([&] {
    auto owned = std::make_unique<RustHook>(hook);
    TORCH_CHECK(leaf->defined() && leaf->is_leaf() && leaf->requires_grad(),
                "only a leaf that requires a gradient has one to wait for");
    TORCH_CHECK(torch::autograd::impl::post_acc_grad_hooks(*leaf) == nullptr, "its gradient is waited for already");
    torch::autograd::impl::set_post_acc_grad_hooks(*leaf, std::move(owned));
  });
}

char *bowline_unhook_gradient(const at::Tensor *leaf) {
  return guarded([&] { torch::autograd::impl::set_post_acc_grad_hooks(*leaf, nullptr); });
}

// The gradient of a tensor, which has none afterwards; null where it had none.
char *bowline_take_gradient(const at::Tensor *tensor, at::Tensor **gradient) {
  return guarded([&] {
    at::Tensor &held = tensor->mutable_grad();
    *gradient = held.defined() ? new at::Tensor(std::exchange(held, at::Tensor())) : nullptr;
  });
}

}  // extern "C"
