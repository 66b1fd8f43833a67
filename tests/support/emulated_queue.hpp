// A queue of device memory for tests of kernels: its memory is the host's, its blocks are emulated, its work is done at once.
// An adaptor runs a backend of device memory where tests have tensors of the host, from copies that lie as such a backend asks.
#pragma once

#include <memory>

#include <sp/backend/concepts.hpp>

#include "support/emulated_block.hpp"

namespace support {

struct emulated_queue {
  using memory_type = sp::device_memory;
  static constexpr bool finished_on_return = true;
  struct event {};

  template <std::size_t Rank, class Body>
  void for_each(std::array<sp::index_t, Rank> const& extents, Body const& body) const {
    sp::inline_queue().for_each(extents, body);
  }
  template <class Term, class Store>
  void sums(sp::index_t outputs, sp::index_t terms, Term const& term, Store const& store) const {
    sp::inline_queue().sums(outputs, terms, term, store);
  }
  void copy(std::span<sp::piece const> to, std::span<sp::piece const> from) const { sp::copy(to, from); }
  static void upload(std::byte* to, std::span<std::byte const> bytes) { sp::inline_queue::upload(to, bytes); }
  static event record() { return {}; }
  static void wait(event) {}
  emulated_queue lane() const { return *this; }
  static void synchronize() {}

  template <class Kernel>
  void launch(Kernel const& kernel, sp::index_t blocks, std::size_t shared_bytes) const {
    emulated_work const done = run_grid(kernel, blocks, sp::index_t(shared_bytes), {.seed = next_launch_seed()++});
    if (work) work->blocks += done.blocks, work->matrix_loads += done.matrix_loads, work->conflicts += done.conflicts;
  }
  emulated_work* work = nullptr; ///< where it is counted
};
static_assert(sp::queue<emulated_queue>);

/// Device memory that is the host's, filled with NaN.
class emulated_pool final : public sp::basic_allocator<sp::device_memory> {
public:
  void* allocate(std::size_t bytes) override {
    void* const p = ::operator new(bytes, std::align_val_t(alignment));
    std::memset(p, 0xff, bytes);
    return p;
  }
  void deallocate(void* p, std::size_t) noexcept override { ::operator delete(p, std::align_val_t(alignment)); }
};

/// A copy of a tensor of the host for an emulated device: dense in the last dimension, aligned to 16 bytes, with room beside each head and
/// each row. Copied back when it goes, if the elements are not const.
template <class E, int Rank>
class on_emulated_device {
public:
  using value = std::remove_const_t<E>;
  on_emulated_device(sp::basic_allocator<sp::device_memory>& from, sp::view<E, Rank> const& host) : host_(host) {
    if (!host.data) return;
    auto padded = host.extents;
    padded[1] += 1;
    if constexpr (Rank == 3) padded[2] = sp::round_up(padded[2], 8) + 8;
    memory_ = sp::owned<value, Rank, sp::device_memory>(from, padded);
    device_ = memory_.tensor;
    device_.extents = host.extents;
    each([](value& there, E& here) { there = here; });
  }
  on_emulated_device(on_emulated_device const&) = delete;
  ~on_emulated_device() {
    if constexpr (!std::is_const_v<E>)
      if (host_.data) each([](value& there, E& here) { here = there; });
  }
  sp::view<E, Rank, sp::device_memory> operator*() const {
    if constexpr (std::is_const_v<E>)
      return sp::view<E, Rank, sp::device_memory>{device_.data, device_.extents, device_.strides};
    else
      return device_;
  }

private:
  template <class F>
  void each(F const& f) {
    for (sp::index_t i = 0; i < host_.extent(0); ++i)
      for (sp::index_t h = 0; h < host_.extent(1); ++h)
        if constexpr (Rank == 2)
          f(device_(i, h), host_(i, h));
        else
          for (sp::index_t d = 0; d < host_.extent(2); ++d) f(device_(i, h, d), host_(i, h, d));
  }
  sp::view<E, Rank> host_;
  sp::owned<value, Rank, sp::device_memory> memory_;
  sp::view<value, Rank, sp::device_memory> device_;
};

/// A backend of device memory as one of the host's.
template <class Backend>
struct emulated_backend {
  using memory_type = sp::host_memory;
  using plan = typename Backend::plan;
  using saved = typename Backend::saved;
  template <class E, int Rank>
  using there = std::unique_ptr<on_emulated_device<E, Rank>>;

  Backend backend;
  std::shared_ptr<emulated_pool> memory = std::make_shared<emulated_pool>();
  emulated_queue queue{};

  plan prepare(sp::problem const& p) const { return backend.prepare(p, sp::context(queue, *memory, *memory)); }

  template <class T>
  saved forward(plan const& p, sp::allocator&, sp::call_params const& n, sp::view<T const, 3> q,
                std::span<sp::kv_views<T> const> keys, sp::attention_state<T> state) const {
    std::vector<there<T const, 3>> tensors;
    auto copied = [&](sp::view<T const, 3> const& x) {
      return *(*tensors.emplace_back(std::make_unique<on_emulated_device<T const, 3>>(*memory, x)));
    };
    std::vector<sp::kv_views<T, sp::device_memory>> list;
    for (auto const& x : keys) list.push_back({copied(x.k), copied(x.v)});
    using A = sp::accumulate_t<T>;
    on_emulated_device<A, 3> out(*memory, state.out);
    on_emulated_device<A, 2> lse(*memory, state.lse);
    return backend.template forward<T>(p, *memory, n, copied(q), std::span<sp::kv_views<T, sp::device_memory> const>(list),
                                       {*out, *lse}, queue);
  }

  template <class T>
  void backward(plan const& p, sp::allocator&, sp::call_params const& n, std::span<sp::query_grad<T> const> queries,
                std::span<sp::key_grad<T> const> keys, saved const& s) const {
    using A = sp::accumulate_t<T>;
    std::vector<there<T const, 3>> tensors;
    std::vector<there<A const, 2>> numbers;
    std::vector<there<A, 3>> sums;
    auto copied = [&](sp::view<T const, 3> const& x) {
      return *(*tensors.emplace_back(std::make_unique<on_emulated_device<T const, 3>>(*memory, x)));
    };
    auto numbers_of = [&](sp::view<A const, 2> const& x) {
      return *(*numbers.emplace_back(std::make_unique<on_emulated_device<A const, 2>>(*memory, x)));
    };
    auto sums_of = [&](sp::view<A, 3> const& x) {
      return *(*sums.emplace_back(std::make_unique<on_emulated_device<A, 3>>(*memory, x)));
    };
    std::vector<sp::query_grad<T, sp::device_memory>> q;
    std::vector<sp::key_grad<T, sp::device_memory>> k;
    for (auto const& x : queries)
      q.push_back({copied(x.q), {}, copied(x.dout), numbers_of(x.lse), numbers_of(x.delta), sums_of(x.dq)});
    for (auto const& x : keys) k.push_back({copied(x.k), copied(x.v), sums_of(x.dk), sums_of(x.dv)});
    backend.template backward<T>(p, *memory, n, std::span<sp::query_grad<T, sp::device_memory> const>(q),
                                 std::span<sp::key_grad<T, sp::device_memory> const>(k), s, queue);
  }
};

} // namespace support
