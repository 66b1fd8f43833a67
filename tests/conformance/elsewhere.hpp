// A world of the conformance trials whose ranks work on late queues, in memory that the host cannot touch: stands for devices.
// Include it before objects of that memory are run; a trial's tensors lie there with their strides and canaries, and come back afterwards.
#pragma once

#include <sp/local.hpp>

#include "draw.hpp"
#include "run.hpp"
#include "support/late_queue.hpp"

namespace conformance {

using support::elsewhere;
using late_ranks = sp::local<support::late_queue>;

/// What stands for a device whose memory is M: a queue, a pool of one, and what keeps all that it is given from running.
template <class M>
struct device;
template <>
struct device<elsewhere> {
  using queue = support::late_queue;
  using pool = support::elsewhere_pool;
  using hold = support::late_queue::hold;
  static queue any_queue() { return queue(); }
};

/// A copy of a tensor of such a device.
template <class T>
struct host_copy {
  std::vector<T> values;
  sp::view<T, 2> v;
  T operator()(sp::index_t i, sp::index_t j) const { return v(i, j); }
};
template <class M>
struct host_reader {
  template <class Comm, class T>
  static host_copy<T> copied(Comm const& comm, sp::view<T, 2, M> const& there) {
    return copied_by(comm.inner().queue(), there);
  }
  /// A rank that is alone knows no queue: the step has waited for its own.
  template <class T>
  static host_copy<T> copied(sp::detail::alone<M> const&, sp::view<T, 2, M> const& there) {
    return copied_by(device<M>::any_queue(), there);
  }

private:
  template <class Queue, class T>
  static host_copy<T> copied_by(Queue const& queue, sp::view<T, 2, M> const& there) {
    host_copy<T> here{std::vector<T>(std::size_t(there.elements())), {}};
    here.v = {here.values.data(), there.extents};
    sp::detail::read_now(queue, here.v, there);
    return here;
  }
};

/// As in_threads. Queues differ by rank and by seed.
struct in_late_threads {
  static constexpr bool peers_share_memory = true;
  unsigned seed;
  support::interleaving how;

  template <class T, class Body>
  void run(int ranks, outcome<T>& to, Body const& body) const {
    late_ranks::run(
        ranks, [&](late_ranks const& comm) { body(comm, to); }, patient(),
        [this](int rank) { return support::late_queue(seed * 16 + unsigned(rank), how); });
  }
};

/// Ranks that show each other memory elsewhere, by barriers of their threads that know no queue.
class host_barriers {
public:
  using memory_type = elsewhere;
  host_barriers(sp::threads ranks, support::late_queue queue) : ranks_(std::move(ranks)), queue_(std::move(queue)) {}
  int rank() const { return ranks_.rank(); }
  int size() const { return ranks_.size(); }
  sp::threads::token exchange(sp::traffic const& t) const { return ranks_.exchange(t); }
  sp::threads::publication publish(char const* primitive, std::span<sp::piece const> mine) const {
    return ranks_.publish(primitive, mine);
  }
  support::late_queue const& queue() const { return queue_; }

private:
  sp::threads ranks_;
  support::late_queue queue_;
};
struct behind_host_barriers {
  static constexpr bool peers_share_memory = true;
  unsigned seed;
  support::interleaving how;

  template <class T, class Body>
  void run(int ranks, outcome<T>& to, Body const& body) const {
    sp::threads::run(
        ranks,
        [&](sp::threads const& comm) {
          body(host_barriers(comm, support::late_queue(seed * 16 + unsigned(comm.rank()), how)), to);
        },
        patient());
  }
};

/// A tensor of a trial in memory M, canaries included.
template <class T, class M>
class moved_tensor {
  using pool = typename device<M>::pool;

public:
  moved_tensor(pool& memory, strided_tensor<T>& host) : host_(host), block_(memory, {index_t(host.data.size())}, host.data) {}
  operator sp::view<T, 3, M>() const {
    return {block_->data + (host_.v.data - host_.data.data()), host_.v.extents, host_.v.strides};
  }
  void bring_back() {
    auto const all = block_.download();
    std::copy(all.begin(), all.end(), host_.data.begin());
  }

private:
  strided_tensor<T>& host_;
  support::pool_tensor<T, 1, pool> block_;
};

/// All tensors of one rank.
template <class T, class M>
struct moved_tensors {
  using pool = typename device<M>::pool;
  rank_tensors<T>& host;
  moved_tensor<T, M> q, k, v, out, dout, dq, dk, dv;
  support::pool_tensor<acc<T>, 1, pool> sinks, dsinks;

  moved_tensors(pool& memory, rank_tensors<T>& x)
      : host(x), q(memory, x.q), k(memory, x.k), v(memory, x.v), out(memory, x.out), dout(memory, x.dout), dq(memory, x.dq),
        dk(memory, x.dk), dv(memory, x.dv), sinks(memory, {index_t(x.sinks.size())}, x.sinks),
        dsinks(memory, {index_t(x.dsinks.size())}, x.dsinks) {}
  sp::attention_extras<T, M> extras(trial const& t, bool backward) const {
    sp::attention_extras<T, M> e;
    if (t.sinks) e.sinks = *sinks;
    if (t.sinks && backward) e.dsinks = *dsinks;
    e.accumulate = backward && t.accumulate;
    return e;
  }
  void bring_back() {
    for (auto* x : {&q, &k, &v, &out, &dout, &dq, &dk, &dv}) x->bring_back();
    host.dsinks = dsinks.download();
  }
};

/// A number that a seed and a question have in common with no other: choices that follow from it are independent of each other.
inline std::uint64_t mixed(std::uint64_t seed, std::uint64_t question) {
  std::uint64_t x = seed * 0x9E3779B97F4A7C15u + question * 0xD1B54A32D192ED03u;
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

/// The trials at which nothing runs before forward, or backward, has returned. What ranks compare is waited for.
inline bool held_back(trial const& t) { return t.checks < 2 && mixed(t.seed, 1) % 3 == 0; }

/// How a step comes by its geometry, and by its scratch.
enum class tables { none, made, rewritten };
inline tables tables_of(trial const& t) {
  auto const how = tables(mixed(t.seed, 2) % 3);
  return how == tables::none && t.checks > 1 ? tables::made : how;
}
inline bool in_workspace(trial const& t) { return mixed(t.seed, 3) % 2 == 0; }

/// Whether the kernel of an object can do without tables, and so without a context.
template <class Kernel>
inline constexpr bool can_do_without_tables = sp::detail::prepares_on_host<Kernel>;
template <class Comm, class Kernel>
inline constexpr bool can_do_without_tables<sp::ring_attention<Comm, Kernel>> = can_do_without_tables<Kernel>;
template <class Comm, class Inner>
inline constexpr bool can_do_without_tables<sp::ulysses_attention<Comm, Inner>> = can_do_without_tables<Inner>;
/// False of an object that is only prepared in a context, and for its own batch.
template <class Object>
inline constexpr bool prepares_without_context = true;

/// The geometry of a step: without tables, with tables, or in the place of another batch.
template <class Object, class Context>
auto prepared_for(Object const& attn, trial const& t, sp::batch const& b, sp::batch const& kb, Context ctx) {
  constexpr bool own_batch_only = !prepares_without_context<Object>;
  if constexpr (can_do_without_tables<Object> && !own_batch_only)
    if (tables_of(t) == tables::none) return t.cross ? attn.prepare(b, kb) : attn.prepare(b);
  if (tables_of(t) != tables::rewritten || own_batch_only) return t.cross ? attn.prepare(b, kb, ctx) : attn.prepare(b, ctx);
  auto other = [&](index_t tokens) { return sp::batch{sp::packed{0, 3, tokens}, sp::contiguous{}, b.part(), b.parts()}; };
  sp::batch const queries = other(11), keys = other(17);
  ctx.room.least = 8 * (t.docs.length() + t.keys().length() + 2); // 8 ranks
  sp::mask full = sp::full();
  full.at = t.mask.at; // ALiBi asks for it
  auto prepared = t.cross ? attn.prepare(queries, keys, full, ctx) : attn.prepare(queries, sp::full(), ctx);
  t.cross ? attn.refresh(prepared, b, kb, ctx) : attn.refresh(prepared, b, ctx);
  return prepared;
}

/// step() on the queue of the object's ranks, in half of the trials in a workspace of scratch_bytes.
template <class T, class Object>
void step(Object const& attn, trial const& t, sp::batch const& b, sp::batch const& kb, rank_tensors<T>& x,
          outcome<T>& to) requires(!std::is_same_v<typename Object::memory_type, sp::host_memory>) {
  using M = typename Object::memory_type;
  using view = sp::view<T, 3, M>;
  auto const queue = attn.group().inner().queue();
  typename device<M>::pool memory(queue), pool(queue), kept(queue);
  {
    moved_tensors<T, M> there(memory, x);
    auto const prepared = prepared_for(attn, t, b, kb, sp::context(queue, pool, kept));
    index_t const bytes = attn.template scratch_bytes<T>(prepared, {t.q_heads, t.kv_heads, t.dim, t.value_dim}, queue);
    support::pool_tensor<char, 1, typename device<M>::pool> const block(memory, {bytes});
    sp::basic_workspace<M> workspace(block->data, std::size_t(bytes));
    sp::basic_allocator<M>& scratch = in_workspace(t) ? workspace : static_cast<sp::basic_allocator<M>&>(pool);
    sp::context const ctx(queue, scratch, kept, t.random());
    auto held = [&](auto&& f) { // a hidden synchronisation throws
      if (!held_back(t)) return f();
      typename device<M>::hold const nothing_runs(queue);
      return f();
    };
    auto saved = held([&] {
      return attn.forward(prepared, ctx, view(there.q), view(there.k), view(there.v), view(there.out), there.extras(t, false));
    });
    queue.synchronize();
    collect_lse<T>(attn, saved, b.layout(), b.part(), b, b.runs(), sp::all_heads(t.q_heads, t.kv_heads), t.q_heads, to);
    held([&] {
      attn.backward(prepared, ctx, std::move(saved), view(there.q), view(there.k), view(there.v), view(there.out),
                    view(there.dout), view(there.dq), view(there.dk), view(there.dv), there.extras(t, true));
    });
    there.bring_back();
  }
  if (memory.blocks_out() + pool.blocks_out() + kept.blocks_out() != 0) to.complain("memory is still in use after backward");
}

/// What other memory leaves of a trial: no short form.
inline trial on_queues(std::uint64_t seed, object_kind object, int ranks) {
  trial t = draw(seed, object, false, true);
  if (object == object_kind::ring) t.ranks = t.ring = ranks;
  if (object == object_kind::ulysses) t.ranks = t.ulysses = ranks;
  static constexpr sp::schedule schedules[] = {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull,
                                               sp::schedule::pass_q};
  t.how = schedules[mixed(seed, 4) % 4];
  if (mixed(seed, 5) % 2) { // chunks on every rank
    t.ulysses_chunks = 2 + index_t(mixed(seed, 6) % 3);
    t.kv_heads = 2 * t.ulysses;
    t.q_heads = t.kv_heads * (1 + index_t(mixed(seed, 7) % 2));
  }
  t.short_form = t.twice = false;
  return t;
}

} // namespace conformance
