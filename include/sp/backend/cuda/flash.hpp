// sp::cuda_flash: attention on the tensor cores of a device, from sm_80 on: any slices, ragged tables, GQA, dropout as on the CPU.
// out and lse go on from what they were, in float; dq, dk, dv are sums in float. What it cannot compute it refuses in a sentence.
#pragma once

#include <sp/backend/cuda/flash_backward_keys.hpp>

namespace sp {

/// Choices of cuda_flash.
struct flash_options {
  /// dq in an order of sums that the tables fix: a pass of its own, some 1.4 times the backward time where dq, dk and dv are wanted at once.
  /// Without, dq is then added to as blocks come, and its last bits differ from run to run. All else is the same bits either way.
  bool deterministic = false;
  /// At most so many blocks are started for a pass, and share its work: persistent ones, two for each multiprocessor (one above dim 128) that
  /// they shall have, so that others are left to communication. 0: one for each tile of rows and head, which the device starts as room
  /// comes, heavy ones first. The results are the same.
  index_t blocks = 0;
};

namespace detail {

/// Head dims that kernels are made for; a call takes the smallest that holds both of its dims.
template <int... Dims>
struct head_dims {};

/// How cuda_flash is built. Another one with the same members may be given to basic_cuda_flash.
struct flash_tuning {
  static constexpr flash_shape shape{};
  using dims = head_dims<64, 128, 256>;
};

/// The tensor cores read 16 bytes at once, sums are written 8 at once.
template <class E, int Rank, class M>
flash_rows<E> flash_operand(view<E, Rank, M> const& x, char const* name) {
  constexpr index_t unit = Rank < 3 ? 1 : 16 / index_t(sizeof(E)) / (sizeof(E) == 4 ? 2 : 1);
  flash_rows<E> const r{x.data, x.stride(0), x.stride(1)};
  if (!x.data || x.empty()) return r;
  bool const along = Rank < 3 || x.extent(Rank - 1) == 1 || x.stride(Rank - 1) == 1;
  bool const aligned = std::uintptr_t(x.data) % (unit * sizeof(E)) == 0 && (x.extent(0) == 1 || r.row % unit == 0) &&
                       (x.extent(1) == 1 || r.head % unit == 0);
  if (!along || !aligned)
    fail({errc::bad_pointer,
          std::string(name) + " with strides (" + std::to_string(r.row) + ", " + std::to_string(r.head) +
              (Rank < 3 ? "" : ", " + std::to_string(x.stride(Rank - 1))) + ") at an address " +
              std::to_string(std::uintptr_t(x.data) % 16) + " behind a multiple of 16",
          "sp::cuda_flash takes heads of consecutive elements that begin at multiples of " + std::to_string(unit * sizeof(E)) +
              " bytes; copy the tensor, or use another kernel"});
  return r;
}

/// Keys or values; one element may stand in the place of all.
template <class E, class M>
flash_rows<E> flash_key_operand(view<E, 3, M> const& x, char const* name) {
  bool const everywhere = x.data && x.stride(0) == 0 && x.stride(1) == 0 && x.stride(2) == 0 && !x.empty();
  return everywhere ? flash_rows<E>{x.data, 0, flash_everywhere} : flash_operand(x, name);
}

/// A dim of heads, or unsupported.
inline void require_flash_dims(index_t dim, index_t value_dim, index_t largest) {
  auto fits = [&](index_t d) { return d > 0 && d <= largest && d % 8 == 0; };
  if (!fits(dim) || !fits(value_dim))
    fail({errc::unsupported, "head dim " + std::to_string(dim) + ", value dim " + std::to_string(value_dim),
          "sp::cuda_flash takes multiples of 8 up to " + std::to_string(largest) + "; use another kernel"});
}
inline void require_flash_tensors(std::size_t n, char const* side) {
  if (n > std::size_t(flash_tensors))
    fail({errc::unsupported, std::to_string(n) + " tensors of " + side + " in one call",
          "sp::cuda_flash takes up to " + std::to_string(flash_tensors) +
              "; choose sp::schedule::rotate or sp::schedule::cast, which gather them"});
}

/// Calls f.template operator()<D>() with the first of the dims that is not below dim.
template <int First, int... More, class F>
void with_head_dim(head_dims<First, More...>, index_t dim, F const& f) {
  if constexpr (sizeof...(More) == 0)
    f.template operator()<First>();
  else if (dim <= First)
    f.template operator()<First>();
  else
    with_head_dim(head_dims<More...>{}, dim, f);
}
template <int... Dims>
constexpr int largest_dim(head_dims<Dims...>) {
  int most = 0;
  ((most = most < Dims ? Dims : most), ...);
  return most;
}

/// The most shared memory that a block takes for heads of D, forward or backward.
template <class T, int D, class Tuning, class... Features>
inline constexpr index_t flash_bytes = [] {
  index_t most = 0;
  for (index_t n : {index_t(flash_forward<T, D, Tuning::shape, Features...>::shared_bytes),
                    index_t(flash_backward_queries<T, D, Tuning::shape, Features...>::shared_bytes),
                    index_t(flash_backward_keys<T, D, false, Tuning::shape, Features...>::shared_bytes),
                    index_t(flash_backward_keys<T, D, true, Tuning::shape, Features...>::shared_bytes)})
    most = max(most, n);
  return most;
}();
/// Or unsupported, before a forward pass of which there is no backward pass.
template <class T, class Tuning, class... Features, int... Dims, class Queue>
void require_flash_memory(head_dims<Dims...>, index_t dim, index_t needed, Queue const& queue) {
  if constexpr (requires { queue.shared_bytes_of_block(); }) {
    index_t const there = queue.shared_bytes_of_block();
    if (needed <= there) return;
    index_t fits = 0;
    ((fits = flash_bytes<T, Dims, Tuning, Features...> <= there && Dims > fits ? Dims : fits), ...);
    fail({errc::unsupported,
          "head dim " + std::to_string(dim) + " takes " + std::to_string(needed) +
              " bytes of shared memory for a block, device " + std::to_string(queue.device()) + " has " + std::to_string(there),
          "There sp::cuda_flash computes head dims up to " + std::to_string(fits) +
              "; for larger ones take a device of sm_80, sm_90 or sm_100, or another kernel (sp::cudnn)"});
  }
}

/// A queue that starts kernels.
template <class Q, class Kernel>
concept starts_kernels = requires(Q const& q, Kernel const& k) {
  q.launch(k, index_t{}, std::size_t{});
};
template <class Queue, class Kernel>
void launch_flash(Queue const& queue, Kernel const& kernel, index_t blocks) {
  static_assert(starts_kernels<Queue, Kernel>, "sp: sp::cuda_flash needs a queue that starts kernels, queue.launch(kernel, "
                                               "blocks, shared bytes): sp::cuda_queue does.");
  queue.launch(kernel, blocks, std::size_t(Kernel::shared_bytes));
}

} // namespace detail

/// cuda_flash with a tuning of its own; see there.
template <class Tuning, class... Features>
class basic_cuda_flash : public detail::with_features<Features...> {
public:
  using memory_type = device_memory;
  using plan = flash_plan<device_memory>;
  using saved = nothing;
  static constexpr index_t key_tile = Tuning::shape.keys; ///< keys this far apart in a document may share a sum

  constexpr explicit(sizeof...(Features) == 1) basic_cuda_flash(Features... features)
      : detail::with_features<Features...>(features...) {}
  constexpr explicit basic_cuda_flash(flash_options const& options, Features... features)
      : detail::with_features<Features...>(features...), options_(options) {}

  /// What ranks compare at check level 2.
  [[nodiscard]] std::uint64_t features() const {
    return digest().add(detail::with_features<Features...>::features()).add(options_.deterministic).value();
  }

  template <class Queue>
  [[nodiscard]] plan prepare(problem const& p, context<Queue> const& c) const {
    plan made;
    refresh(made, p, c);
    return made;
  }
  template <class Queue>
  void refresh(plan& made, problem const& p, context<Queue> const& c) const {
    made.assign(c, p, Tuning::shape);
    if constexpr (mod::biased) {
      std::span<float const> const slopes = this->features_.sp::alibi::slopes;
      made.slopes.assign(c, std::vector<float>(slopes.begin(), slopes.end()));
    }
  }

  /// Folds all keys into `state`. q (rows, q heads, dim); keys (rows, kv heads, dim), (rows, kv heads, value dim).
  template <class T, queue Queue>
    requires(detail::multiplied<T>&& std::same_as<typename Queue::memory_type, device_memory>)
  saved forward(plan const& p, basic_allocator<device_memory>&, call_params const& n, view<T const, 3, device_memory> q,
                std::span<kv_views<T, device_memory> const> keys, attention_state<T, device_memory> state, Queue const& queue)
  const {
    index_t const dim = q.extent(2), value_dim = state.out.extent(2), items = p.items(detail::flash_pass::forward);
    if (items == 0 || n.heads.q_count == 0) return {};
    require_dims(dim, value_dim);
    detail::require_flash_tensors(keys.size(), "keys");
    detail::with_head_dim(dims{}, max(dim, value_dim), [&]<int D>() {
      constexpr index_t bytes = detail::flash_bytes<T, D, Tuning, Features...>;
      detail::require_flash_memory<T, Tuning, Features...>(dims{}, max(dim, value_dim), bytes, queue);
      detail::flash_forward<T, D, Tuning::shape, Features...> kernel;
      fill(kernel, p, n, detail::flash_pass::forward, dim, value_dim);
      kernel.q = detail::flash_operand(q, "q");
      kernel.out = detail::flash_operand(state.out, "out");
      kernel.lse = detail::flash_operand(state.lse, "lse");
      for (std::size_t i = 0; i < keys.size(); ++i)
        kernel.keys[i] = {detail::flash_key_operand(keys[i].k, "k"), detail::flash_key_operand(keys[i].v, "v")};
      launch(queue, kernel, checked_mul(items, n.heads.q_count));
    });
    return {};
  }

  /// Adds dq, dk, dv where they are wanted.
  template <class T, queue Queue>
    requires(detail::multiplied<T>&& std::same_as<typename Queue::memory_type, device_memory>)
  void backward(plan const& p, basic_allocator<device_memory>&, call_params const& n,
                std::span<query_grad<T, device_memory> const> queries, std::span<key_grad<T, device_memory> const> keys,
                saved const&, Queue const& queue) const {
    bool want_queries = false, want_keys = false;
    for (auto const& x : queries) want_queries = want_queries || x.dq.data;
    for (auto const& x : keys) want_keys = want_keys || x.dk.data || x.dv.data;
    if (queries.empty() || keys.empty() || n.heads.q_count == 0) return;
    index_t const dim = queries[0].q.extent(2), value_dim = queries[0].dout.extent(2);
    require_dims(dim, value_dim);
    detail::require_flash_tensors(queries.size(), "queries");
    detail::require_flash_tensors(keys.size(), "keys");
    bool const at_once = want_queries && want_keys && !options_.deterministic;
    detail::with_head_dim(dims{}, max(dim, value_dim), [&]<int D>() {
      using detail::flash_pass;
      auto run = [&]<class Kernel>(Kernel kernel, flash_pass pass, index_t heads) {
        if (p.items(pass) == 0) return;
        fill(kernel, p, n, pass, dim, value_dim);
        place(kernel, queries, keys);
        launch(queue, kernel, checked_mul(p.items(pass), heads));
      };
      using in_two = detail::flash_backward_keys<T, D, false, Tuning::shape, Features...>;
      using in_one = detail::flash_backward_keys<T, D, true, Tuning::shape, Features...>;
      if (at_once) return run(in_one{}, flash_pass::keys, n.heads.kv_count * in_one::parts);
      if (want_queries)
        run(detail::flash_backward_queries<T, D, Tuning::shape, Features...>{}, flash_pass::queries, n.heads.q_count);
      if (want_keys) run(in_two{}, flash_pass::keys, n.heads.kv_count * in_two::parts);
    });
  }

private:
  using dims = typename Tuning::dims;
  using mod = detail::score_mod<float, Features...>;

  static void require_dims(index_t dim, index_t value_dim) {
    detail::require_flash_dims(dim, value_dim, detail::largest_dim(dims{}));
  }

  template <class Queue, class Kernel>
  void launch(Queue const& queue, Kernel const& kernel, index_t units) const {
    detail::launch_flash(queue, kernel, options_.blocks > 0 ? min(units, options_.blocks) : units);
  }

  /// What the arguments of all passes have.
  template <class Kernel>
  void fill(Kernel& k, plan const& p, call_params const& n, detail::flash_pass pass, index_t dim, index_t value_dim) const {
    k.lists = p.lists(pass);
    k.heads = n.heads;
    k.dim = int(dim);
    k.value_dim = int(value_dim);
    k.features.scale = float(n.scale);
    k.features.random = n.random;
    if constexpr (mod::biased) {
      this->check({.q_count = n.heads.q_end()});
      k.features.slopes = p.slopes.values().data;
    }
    if constexpr (mod::capped) {
      k.features.numbers.cap = float(this->features_.sp::softcap::cap);
      k.features.numbers.inverse_cap = float(1 / this->features_.sp::softcap::cap);
    }
    if constexpr (mod::drops) {
      double const chance = this->features_.sp::dropout::p;
      k.features.numbers.p = float(chance);
      k.features.numbers.keep_scale = chance < 1 ? float(1 / (1 - chance)) : 0.0f;
    }
  }
  template <class Kernel, class Queries, class Keys>
  static void place(Kernel& k, Queries queries, Keys keys) {
    using detail::flash_operand;
    for (std::size_t i = 0; i < queries.size(); ++i)
      k.queries[i] = {flash_operand(queries[i].q, "q"), flash_operand(queries[i].dout, "dout"),
                      flash_operand(queries[i].lse, "lse"), flash_operand(queries[i].delta, "delta"),
                      flash_operand(queries[i].dq, "dq")};
    for (std::size_t i = 0; i < keys.size(); ++i)
      k.keys[i] = {detail::flash_key_operand(keys[i].k, "k"), detail::flash_key_operand(keys[i].v, "v"),
                   flash_operand(keys[i].dk, "dk"), flash_operand(keys[i].dv, "dv")};
  }

  flash_options options_{};
};

/// An attention_backend for tensors of bf16 or fp16 on a device: sp::cuda_flash{}, sp::cuda_flash{sp::softcap{30}, sp::alibi{slopes}},
/// sp::cuda_flash{sp::flash_options{.deterministic = true}, ...}. Head dims are multiples of 8 up to 256. Probabilities and the
/// gradients of scores are rounded to the element type before they are multiplied; all sums are float. Rows and keys that no slice covers
/// are never read. A NaN or infinity in v, k or dout of a token may reach other rows of its tile: zero times NaN is NaN.
/// A call takes no scratch; prepare(problem, context) keeps its tables in context.kept, and refresh() rewrites them.
template <class... Features>
class cuda_flash : public basic_cuda_flash<detail::flash_tuning, Features...> {
public:
  constexpr explicit(sizeof...(Features) == 1) cuda_flash(Features... features)
      : basic_cuda_flash<detail::flash_tuning, Features...>(features...) {}
  constexpr explicit cuda_flash(flash_options const& options, Features... features)
      : basic_cuda_flash<detail::flash_tuning, Features...>(options, features...) {}
};

template <class Tuning, class... Features>
inline constexpr bool equal_by_features<basic_cuda_flash<Tuning, Features...>> = true;
template <class... Features>
inline constexpr bool equal_by_features<cuda_flash<Features...>> = true;

static_assert(attention_backend<cuda_flash<>, bf16> && attention_backend<cuda_flash<softcap, alibi, dropout>, fp16>);

} // namespace sp
