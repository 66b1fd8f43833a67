// Runs a trial on the ranks of a world: local tensors in varied memory orders between canaries, slack rows poisoned with NaN.
// Rows are placed by the runs' positions here, not by the library's split and gather, so that neither can hide an error of the other.
#pragma once

#include <cmath>
#include <cstring>
#include <mutex>
#include <random>
#include <thread>

#include <sp/threads.hpp>
#include <sp/usp.hpp>

#include "support/row_order.hpp"
#include "support/strided_tensor.hpp"
#include "trial.hpp"

namespace conformance {

using support::strided_tensor;

template <class T>
using acc = sp::accumulate_t<T>;

inline std::size_t size_of(index_t a, index_t b, index_t c) { return std::size_t(a * b * c); }

/// Global tensors of a trial, row-major; rows outside of every document are NaN.
template <class T>
struct inputs {
  std::vector<T> q, k, v, dout;
  std::vector<acc<T>> sinks;
  std::vector<float> slopes;

  explicit inputs(trial const& t) {
    std::mt19937_64 g(t.seed ^ 0x5eed);
    q = tensor(g, t.docs, t.q_heads, t.dim, t.loud);
    k = tensor(g, t.keys(), t.kv_heads, t.dim);
    v = tensor(g, t.keys(), t.kv_heads, t.value_dim);
    dout = tensor(g, t.docs, t.q_heads, t.value_dim);
    std::normal_distribution<double> normal;
    for (index_t h = 0; h < t.q_heads; ++h) {
      sinks.push_back(acc<T>(t.sink_size * normal(g)));
      slopes.push_back(t.alibi ? std::exp2(-1.0f - 0.5f * float(h)) : 0.0f);
    }
  }

private:
  static std::vector<T> tensor(std::mt19937_64& g, sp::documents const& docs, index_t heads, index_t width, double factor = 1) {
    std::vector<T> out(size_of(docs.length(), heads, width), T(std::numeric_limits<float>::quiet_NaN()));
    std::normal_distribution<double> normal;
    for (auto const& d : docs)
      for (index_t i = d.begin * heads * width; i < d.end() * heads * width; ++i)
        out[std::size_t(i)] = T(float(factor * normal(g)));
    return out;
  }
};

/// The caller's stream position of each row that `runs` of a batch hold; -1 for slack.
inline std::vector<index_t> stream_rows(sp::batch const& b, std::span<sp::run const> runs) {
  std::vector<index_t> out;
  for (auto const& r : runs)
    for (index_t i = 0; i < r.count; ++i) {
      index_t p = r.at(i), at = -1;
      for (std::size_t d = 0; d < b.docs().size(); ++d) {
        auto const& x = b.docs()[d];
        if (x.begin <= p && p < x.end()) at = b.source()[d].begin + p - x.begin;
      }
      out.push_back(at);
    }
  return out;
}

/// Results over the whole stream, row-major; rows that no rank wrote keep `unwritten`.
template <class T>
struct outcome {
  static constexpr float unwritten = 77;
  std::vector<T> out, dq, dk, dv;
  std::vector<acc<T>> lse;                 ///< (q rows, q heads); -inf where nobody wrote
  std::vector<std::vector<acc<T>>> dsinks; ///< by rank
  bool has_lse = true;                     ///< false: the kernel does not return it
  std::vector<std::string> complaints;
  std::mutex lock;

  outcome(trial const& t, int ranks) : dsinks(std::size_t(ranks)) {
    index_t nq = t.docs.length(), nk = t.keys().length();
    out.assign(size_of(nq, t.q_heads, t.value_dim), T(unwritten));
    dq.assign(size_of(nq, t.q_heads, t.dim), T(unwritten));
    dk.assign(size_of(nk, t.kv_heads, t.dim), T(unwritten));
    dv.assign(size_of(nk, t.kv_heads, t.value_dim), T(unwritten));
    lse.assign(size_of(nq, t.q_heads, 1), -std::numeric_limits<acc<T>>::infinity());
  }
  void complain(std::string what) {
    std::lock_guard hold(lock);
    complaints.push_back(std::move(what));
  }
};

/// All tensors of one rank.
template <class T>
struct rank_tensors {
  std::vector<index_t> q_rows, k_rows;
  T start; ///< what gradients hold before the call
  strided_tensor<T> q, k, v, out, dout, dq, dk, dv;
  std::vector<acc<T>> sinks, dsinks;

  rank_tensors(trial const& t, inputs<T> const& in, sp::batch const& b, sp::batch const& kb)
      : q_rows(stream_rows(b, b.runs())), k_rows(stream_rows(kb, kb.runs())), start(T(float(t.accumulate ? t.start : 99))),
        q(b.tokens(), t.q_heads, t.dim, t.order_of(t.order), nan()),
        k(kb.tokens(), t.kv_heads, t.dim, t.order_of(t.order + 1), nan()),
        v(kb.tokens(), t.kv_heads, t.value_dim, t.order_of(t.order / 3), nan()),
        out(b.tokens(), t.q_heads, t.value_dim, t.order_of(t.order + 2), nan()),
        dout(b.tokens(), t.q_heads, t.value_dim, t.order_of(t.order / 3 + 1), nan()),
        dq(b.tokens(), t.q_heads, t.dim, t.order_of(t.order / 3 + 2), start),
        dk(kb.tokens(), t.kv_heads, t.dim, t.order_of(t.order), start),
        dv(kb.tokens(), t.kv_heads, t.value_dim, t.order_of(t.order + 1), start), sinks(in.sinks),
        dsinks(in.sinks.size(), acc<T>(start)) {
    take(q.v, q_rows, in.q);
    take(k.v, k_rows, in.k);
    take(v.v, k_rows, in.v);
    take(dout.v, q_rows, in.dout);
  }
  sp::attention_extras<T> extras(trial const& t, bool backward) {
    sp::attention_extras<T> e;
    index_t n = index_t(sinks.size());
    if (t.sinks) e.sinks = {sinks.data(), {n}};
    if (t.sinks && backward) e.dsinks = {dsinks.data(), {n}};
    e.accumulate = backward && t.accumulate;
    if (t.short_form) e.random = t.random();
    return e;
  }
  /// Local results to their rows of the stream; slack rows must be zero (or what they were).
  void give(trial const& t, outcome<T>& to, int rank) const {
    put(to, "out", out, q_rows, to.out, T(0.0f));
    T kept = t.accumulate ? start : T(0.0f);
    put(to, "dq", dq, q_rows, to.dq, kept);
    put(to, "dk", dk, k_rows, to.dk, kept);
    put(to, "dv", dv, k_rows, to.dv, kept);
    if (t.sinks) to.dsinks[std::size_t(rank)] = dsinks;
    for (auto const* x : {&q, &k, &v, &out, &dout, &dq, &dk, &dv})
      if (!x->intact()) to.complain("a canary is gone on rank " + std::to_string(rank));
  }

private:
  static T nan() { return T(std::numeric_limits<float>::quiet_NaN()); }
  static void take(sp::view<T, 3> to, std::vector<index_t> const& rows, std::vector<T> const& from) {
    for (index_t i = 0; i < to.extent(0); ++i)
      for (index_t h = 0; h < to.extent(1); ++h)
        for (index_t d = 0; d < to.extent(2); ++d)
          if (index_t at = rows[std::size_t(i)]; at >= 0)
            to(i, h, d) = from[std::size_t((at * to.extent(1) + h) * to.extent(2) + d)];
  }
  static void put(outcome<T>& to, char const* name, strided_tensor<T> const& from, std::vector<index_t> const& rows,
                  std::vector<T>& global, T slack) {
    auto const& v = from.v;
    for (index_t i = 0; i < v.extent(0); ++i)
      for (index_t h = 0; h < v.extent(1); ++h)
        for (index_t d = 0; d < v.extent(2); ++d)
          if (index_t at = rows[std::size_t(i)]; at >= 0)
            global[std::size_t((at * v.extent(1) + h) * v.extent(2) + d)] = v(i, h, d);
          else if (!(float(v(i, h, d)) == float(slack)))
            return to.complain(std::string("slack row of ") + name + " is " + std::to_string(float(v(i, h, d))));
  }
};

/// What the host reads of a tensor; of other memory than its own, what host_reader<M> makes: see elsewhere.hpp.
template <class M>
struct host_reader;
template <class Comm, class T, class M>
auto readable(Comm const& comm, sp::view<T, 2, M> const& v) {
  if constexpr (std::is_same_v<M, sp::host_memory>)
    return v;
  else
    return host_reader<M>::copied(comm, v);
}

/// lse out of what forward saved: (rows of the innermost ring, its heads).
template <class T, class C, class B, class Saved>
void collect_lse(sp::ring_attention<C, B> const& o, Saved const& saved, sp::layout const&, int, sp::batch const& b,
                 std::span<sp::run const> runs, sp::heads on, index_t heads, outcome<T>& to) {
  auto rows = stream_rows(b, runs);
  auto const lse = readable(o.group(), saved.lse.tensor);
  for (std::size_t i = 0; i < rows.size(); ++i)
    for (index_t h = 0; h < on.q_count; ++h)
      if (rows[i] >= 0) to.lse[std::size_t(rows[i] * heads + on.q_begin + h)] = lse(index_t(i), h);
}
template <class T, class K, class Saved>
void collect_lse(sp::whole_attention<K> const&, Saved const&, sp::layout const&, int, sp::batch const&, std::span<sp::run const>,
                 sp::heads, index_t, outcome<T>&) {}
template <class T, class C, class I, class Saved>
void collect_lse(sp::ulysses_attention<C, I> const& o, Saved const& saved, sp::layout const& l, int part, sp::batch const& b,
                 std::span<sp::run const>, sp::heads on, index_t heads, outcome<T>& to) {
  int size = o.group().size(), stride = int(sp::group_stride(o.group())), at = sp::layout::group_of(part, size, stride);
  auto whole = l.grouped(size, stride);
  sp::heads const mine = sp::heads_of(on, o.group().rank(), size);
  for (index_t i = 0; i < saved.inner.count(); ++i)
    collect_lse<T>(o.inner(), saved.inner.at(i), whole, at, b, whole.runs(at), sp::chunk_of(mine, i, saved.inner.count()), heads,
                   to);
}

/// prepare, forward, backward of one object on one rank, as work of `queue`; a call in short form has the caller's thread. Objects of
/// other memory: elsewhere.hpp.
template <class T, class Object, class Queue = sp::inline_queue>
void step(Object const& attn, trial const& t, sp::batch const& b, sp::batch const& kb, rank_tensors<T>& x, outcome<T>& to,
          Queue const& queue = {}) requires(std::is_same_v<typename Object::memory_type, sp::host_memory>) {
  auto forward_extras = x.extras(t, false), backward_extras = x.extras(t, true);
  auto keep_lse = [&](auto const& saved) {
    collect_lse<T>(attn, saved, b.layout(), b.part(), b, b.runs(), sp::all_heads(t.q_heads, t.kv_heads), t.q_heads, to);
  };
  if (t.short_form) {
    auto saved = attn.forward(b, x.q.v, x.k.v, x.v.v, x.out.v, forward_extras);
    keep_lse(saved);
    attn.backward(b, std::move(saved), x.q.v, x.k.v, x.v.v, x.out.v, x.dout.v, x.dq.v, x.dk.v, x.dv.v, backward_extras);
    return;
  }
  auto prepared = t.cross ? attn.prepare(b, kb) : attn.prepare(b);
  sp::pool scratch, kept;
  sp::context<Queue> ctx{queue, scratch, kept, t.random()};
  auto saved = attn.forward(prepared, ctx, x.q.read(), x.k.read(), x.v.read(), x.out.v, forward_extras);
  keep_lse(saved);
  attn.backward(prepared, ctx, std::move(saved), x.q.read(), x.k.read(), x.v.read(), x.out.v, x.dout.read(), x.dq.v, x.dk.v,
                x.dv.v, backward_extras);
  if (scratch.bytes_in_use() + kept.bytes_in_use() != 0) to.complain("memory is still in use after backward");
}

inline sp::threads_options patient() { return {.deadline = std::chrono::seconds(30)}; }

/// A world starts the ranks of a trial and brings their results together; this one's ranks are threads that share the outcome.
/// run(ranks, to, body): body(communicator, outcome) on each rank, and all that they wrote is in `to` where decide() asks.
/// decide(f): what f() says where the results are, on every process. peers_share_memory: the schedule may be pull.
struct in_threads {
  static constexpr bool peers_share_memory = true;
  template <class T, class Body>
  void run(int ranks, outcome<T>& to, Body const& body) const {
    sp::threads::run(
        ranks, [&](sp::threads const& comm) { body(comm, to); }, patient());
  }
  template <class F>
  std::string decide(F const& f) const {
    return f();
  }
};

/// The undecorated communicator.
struct as_it_is {
  template <class Comm>
  Comm const& operator()(Comm const& comm) const {
    return comm;
  }
};

/// Ulysses around USP. The groups of the outer one are the ranks of the inner mesh, so that strides there count groups.
template <class Kernel, class Comm>
auto nested_ulysses(trial const& t, Kernel const& kernel, sp::attention_options const& how, Comm const& comm) {
  std::vector<sp::axis::named> axes{sp::axis::ring{t.ring}, sp::axis::ulysses{t.ulysses / t.outer}};
  if (t.ring_is_fast) std::swap(axes[0], axes[1]);
  sp::mesh const inside{std::span<sp::axis::named const>(axes)};
  sp::index_t stride = 1; // of the outer group: ranks of the axes behind its own
  for (std::size_t a = std::size_t(t.outer_place); a < axes.size(); ++a) stride *= axes[a].size;
  axes.insert(axes.begin() + t.outer_place, sp::axis::named("outer", t.outer));
  sp::mesh const all{std::span<sp::axis::named const>(axes)};
  sp::group const outer_group(all.along(comm, {"outer"}).inner(), stride);
  Comm const groups = all.sequence(comm).inner();
  sp::ulysses_options const keeps{t.keep_inner ? sp::keep::heads : sp::keep::output, t.ulysses_chunks};
  return sp::ulysses_attention{
      outer_group, sp::ulysses_attention{inside.ulysses(groups), sp::ring_attention{inside.ring(groups), kernel, how}, keeps},
      sp::ulysses_options{t.keep, t.ulysses_chunks}};
}

/// The trial's object on one rank.
template <object_kind Object, class T, class Kernel, class Comm, class... Queue>
void run_rank(trial const& t, inputs<T> const& in, Kernel const& kernel, Comm const& comm, outcome<T>& to,
              Queue const&... queue) {
  auto options = [](bool padded) { return sp::batch_options{padded ? sp::shapes::padded : sp::shapes::ragged}; };
  auto ordered = [&t](sp::batch made, std::uint64_t seed) {
    return t.any_order ? support::shuffled(made, seed) : std::move(made);
  };
  sp::batch b = ordered({t.docs, t.sharding, comm, options(t.padded)}, t.seed),
            kb = ordered({t.keys(), t.sharding_of_keys(), comm, options(t.keys_are_padded())}, t.seed + t.cross);
  rank_tensors<T> x(t, in, b, kb);
  sp::attention_options how{
      .mask = t.mask, .scale = t.scale, .schedule = t.how, .head_chunks = t.head_chunks, .checks = t.checks};
  if constexpr (Object == object_kind::nested) step<T>(nested_ulysses(t, kernel, how, comm), t, b, kb, x, to, queue...);
  if constexpr (Object == object_kind::ring) step<T>(sp::ring_attention{sp::group(comm), kernel, how}, t, b, kb, x, to, queue...);
  if constexpr (Object == object_kind::ulysses)
    step<T>(sp::ulysses_attention{sp::group(comm), kernel, how, {t.keep, t.ulysses_chunks}}, t, b, kb, x, to, queue...);
  if constexpr (Object == object_kind::usp) {
    sp::axis::ring ring{t.ring};
    sp::axis::ulysses ulysses{t.ulysses};
    sp::mesh mesh = t.ring_is_fast ? sp::mesh{ulysses, ring} : sp::mesh{ring, ulysses};
    step<T>(sp::ulysses_attention{mesh.ulysses(comm), sp::ring_attention{mesh.ring(comm), kernel, how},
                                  sp::ulysses_options{t.keep, t.ulysses_chunks}},
            t, b, kb, x, to, queue...);
  }
  x.give(t, to, comm.rank());
}

/// The trial's object over the ranks of `world`; `wrap` may decorate each rank's communicator.
template <object_kind Object, class T, class Kernel, class Wrap = as_it_is, class World = in_threads>
void run(trial const& t, inputs<T> const& in, Kernel const& kernel, outcome<T>& to, Wrap const& wrap = {},
         World const& world = {}) {
  world.run(t.ranks, to, [&](auto const& comm, outcome<T>& mine) { run_rank<Object, T>(t, in, kernel, wrap(comm), mine); });
}

/// The same on two threads of each rank at once, in two groups that split() made of all ranks.
template <object_kind Object, class T, class Kernel>
void run_twice(trial const& t, inputs<T> const& in, Kernel const& kernel, outcome<T>& first, outcome<T>& second) {
  sp::threads::run(
      t.ranks,
      [&](sp::threads const& comm) {
        auto const one = comm.split(0, comm.rank()), other = comm.split(0, comm.rank());
        std::exception_ptr failure;
        {
          struct joining {
            std::thread thread;
            ~joining() { thread.join(); }
          } beside{std::thread([&] {
            try {
              run_rank<Object, T>(t, in, kernel, other, second);
            } catch (...) {
              failure = std::current_exception();
            }
          })};
          run_rank<Object, T>(t, in, kernel, one, first);
        }
        if (failure) std::rethrow_exception(failure);
      },
      patient());
}

/// The same kernel on one rank.
template <class T, class Kernel>
void run_alone(trial t, inputs<T> const& in, Kernel const& kernel, outcome<T>& to) {
  t.padded = t.any_order = false;
  t.sharding = {};
  sp::solo comm;
  sp::batch b(t.docs, t.sharding, comm), kb(t.keys(), t.sharding, comm);
  rank_tensors<T> x(t, in, b, kb);
  step<T>(sp::ring_attention{comm, kernel, {.mask = t.mask, .scale = t.scale}}, t, b, kb, x, to);
  x.give(t, to, 0);
}

} // namespace conformance
