// One rank's part of a CUDA device: tensors of the host's model are copied there for each call, and results back.
// Converted to the type of attention on the device. Compiled by nvcc; see training/group_work_on.hpp for what a place is.
#pragma once

#include <algorithm>

#include <sp/core/elementwise.hpp>
#include <sp/cuda.hpp>
#include <sp/cuda_flash.hpp>
#include <sp/reference.hpp>

#include "training/delta_nets.hpp"
#include "training/plans.hpp"

namespace trainer {

using sp::index_t;

/// An allocator that counts what goes through it.
class counted_memory final : public sp::basic_allocator<sp::device_memory> {
public:
  explicit counted_memory(sp::device_pool& from) : from_(from) {}
  void* allocate(std::size_t bytes) override {
    void* const p = from_.allocate(bytes);
    now_ += size(bytes);
    peak_ = std::max(peak_, now_);
    return p;
  }
  void deallocate(void* p, std::size_t bytes) noexcept override {
    now_ -= size(bytes);
    from_.deallocate(p, bytes);
  }
  [[nodiscard]] index_t peak_bytes() const { return peak_; }

private:
  static index_t size(std::size_t bytes) { return sp::round_up(index_t(bytes), index_t(alignment)); }
  sp::device_pool& from_;
  index_t now_ = 0, peak_ = 0;
};

class device_place {
public:
  using communicator = sp::cuda_local;
  explicit device_place(communicator const& world) : world_(world), memory_(world.queue()) {}

  communicator const& world() const { return world_; }
  sp::context<sp::cuda_queue> context(index_t layer) {
    return {queue(), attention_scratch_, kept_, sp::random_key{0, std::uint64_t(layer)}};
  }
  sp::context<sp::cuda_queue> context() { return {queue(), memory_, memory_}; }
  index_t peak() const { return attention_scratch_.peak_bytes() + kept_.peak_bytes(); }

  /// sp::cuda_flash multiplies bf16; what it does not take the kernel for proofs computes.
  template <class E>
  auto kernel() const {
    if constexpr (std::is_same_v<E, sp::bf16>)
      return sp::cuda_flash{};
    else
      return sp::basic_reference<sp::device_memory>{};
  }

  /// No kernel of linear attention is for devices; options.cpp refuses models that need one.
  template <class T, class Group>
  std::unique_ptr<delta_nets<T>> delta_nets_over(Group const&, delta_by, shape const&) const {
    return nullptr;
  }

  template <class E, int Rank>
  using tensor = sp::owned<E, Rank, sp::device_memory>;

  template <class E, class T, int Rank>
  tensor<E, Rank> copy_of(sp::view<T, Rank> v) {
    tensor<T, Rank> same(memory_, v.extents);
    copy(sp::as_piece(same.tensor), sp::as_piece(v));
    if constexpr (std::is_same_v<E, T>) {
      return same;
    } else {
      tensor<E, Rank> converted(memory_, v.extents);
      sp::assign(queue(), converted.tensor, same.tensor);
      return converted;
    }
  }
  template <class E, class T, int Rank>
  tensor<E, Rank> room_for(sp::view<T, Rank> v) {
    return {memory_, v.extents};
  }
  template <class E, class T, int Rank>
  void finish(tensor<E, Rank> const& from, sp::view<T, Rank> to) {
    if constexpr (std::is_same_v<E, T>) {
      copy(sp::as_piece(to), sp::as_piece(from.tensor));
      queue().synchronize();
    } else {
      tensor<T, Rank> converted(memory_, to.extents);
      sp::assign(queue(), converted.tensor, from.tensor);
      finish(converted, to);
    }
  }

private:
  sp::cuda_queue const& queue() const { return world_.queue(); }
  void copy(sp::piece const& to, sp::piece const& from) const { queue().copy({&to, 1}, {&from, 1}); }

  communicator world_;
  sp::device_pool memory_;
  counted_memory attention_scratch_{memory_}, kept_{memory_};
};

} // namespace trainer
