// Where ranks on the host compute: on their own threads and on helpers that the ranks of a process share, in host memory.
// ranks/cuda/place.hpp has the same class over a CUDA device; a program is built with one of the two folders in its include path.
#pragma once

#include "model/eigen.hpp"

#include <sp/cpu.hpp>
#include <sp/workers.hpp>

#include "model/products.hpp"
#include "ranks.hpp"
#include "training/delta_nets_on.hpp"
#include "training/group_work_on.hpp"

namespace trainer {

/// One rank's part of the place, see group_work_on.hpp: every tensor stays where it is.
class host_place {
public:
  using communicator = ranks::communicator;
  host_place(communicator const& world, sp::workers const& workers) : world_(world), workers_(workers) {}

  communicator const& world() const { return world_; }
  sp::context<> context(index_t layer) { return {attention_scratch_, kept_, sp::random_key{0, std::uint64_t(layer)}}; }
  sp::context<> context() { return {scratch_, scratch_}; }
  index_t peak() const { return index_t(attention_scratch_.peak_bytes() + kept_.peak_bytes()); }
  /// Tiles of attention are shared out among the threads of this rank.
  template <class>
  auto kernel() const {
    return sp::on_queue(workers_, sp::cpu{});
  }

  /// The same memory, and tasks for the threads.
  sp::context<sp::workers> delta_context(index_t layer) {
    return {workers_, attention_scratch_, kept_, sp::random_key{0, std::uint64_t(layer)}};
  }
  template <class T, class Group>
  std::unique_ptr<delta_nets<T>> delta_nets_over(Group const& group, delta_by how, shape const& model) {
    return std::make_unique<delta_nets_on<T, Group, host_place>>(group, how, model, *this);
  }

  template <class T, int Rank>
  struct itself {
    sp::view<T, Rank> tensor{};
  };
  template <class E, int Rank>
  itself<E, Rank> copy_of(sp::view<E, Rank> v) const {
    return {v};
  }
  template <class E, int Rank>
  itself<E, Rank> room_for(sp::view<E, Rank> v) const {
    return {v};
  }
  template <class T, int Rank>
  void finish(itself<T, Rank> const&, sp::view<T, Rank>) const {}

private:
  communicator world_;
  sp::workers workers_;
  sp::pool attention_scratch_, kept_; ///< given back within a call, and kept from forward to backward
  sp::pool scratch_;                  ///< of everything that is not attention
};

/// What the ranks of this process share in a run.
class place {
public:
  place(settings const& asked, int ranks_here) : workers_{asked.workers * ranks_here, {.ranks = ranks_here}} {}

  /// How matrices of type T are multiplied for attention in the type of `asked`.
  eigen_products products(ranks::communicator const&) const { return {}; }
  template <class T>
  std::unique_ptr<group_work<T>> group_of(ranks::communicator const& world, plan const& how, settings const& asked) const {
    return std::make_unique<group_work_on<T, T, host_place>>(how, asked.model, world, workers_);
  }

private:
  sp::workers workers_;
};

} // namespace trainer
