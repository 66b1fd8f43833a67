// Random cases of vit_attention on ranks that are threads, and the float64 oracle of the documents {prefix, patches} in one piece.
// Where a row stands in these documents is worked out here from batch and documents alone, apart from the library's own layout.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <mutex>
#include <random>

#include <sp/counting.hpp>
#include <sp/threads.hpp>
#include <sp/usp.hpp>
#include <sp/vision.hpp>

#include "support/oracle_documents.hpp"
#include "support/row_order.hpp"
#include "support/sharding.hpp"
#include "support/strided_tensor.hpp"

namespace vit {

using sp::index_t;
using support::strided_tensor;
using comm = sp::counting<sp::threads>;
template <class T>
using sums_of = sp::accumulate_t<T>;

/// One case as plain numbers, a pure function of its seed.
struct trial {
  std::uint64_t seed;
  int ring = 1, ulysses = 1, outer = 1; ///< outer: of a Ulysses around the other two
  bool ring_is_fast = false;
  sp::schedule how = sp::schedule::rotate;
  index_t head_chunks = 1, ulysses_chunks = 1;
  sp::keep keep = sp::keep::heads;
  sp::documents patches{}; ///< as the caller has them
  support::any_sharding sharding{};
  bool padded = false, any_order = false;
  index_t grain = 1; ///< rows that stay together
  index_t prefix = 1, q_heads = 1, kv_heads = 1, dim = 4, value_dim = 3;
  index_t lo = -sp::unbounded, hi = sp::unbounded;
  bool same = false, accumulate = false, short_form = false, sinks = false;
  double dropout = 0;
  int checks = 1;
  unsigned order = 0;

  int ranks() const { return ring * ulysses * outer; }
  index_t documents() const { return index_t(patches.size()); }
  index_t prefix_rows() const { return documents() * prefix; }
  sp::mask mask() const { return {.lo = lo, .hi = hi}; }
  sp::attention_options options() const {
    return {.mask = mask(), .schedule = how, .head_chunks = head_chunks, .checks = checks};
  }
  sp::random_key random() const { return {seed, 5}; }
  sp::attention_shape shape() const { return {q_heads, kv_heads, dim, value_dim}; }

  std::string describe() const {
    auto n = [](auto x) { return std::to_string(x); };
    std::string s = "seed " + n(seed) + ": ring " + n(ring) + " ulysses " + n(ulysses) + " outer " + n(outer) +
                    (ring_is_fast ? " strided" : "") + ", schedule " + n(int(how)) + " in chunks " + n(head_chunks) + " and " +
                    n(ulysses_chunks) + ", keep " + n(int(keep)) + ", sharding " + n(sharding.kind) +
                    (sharding.over == sp::scope::stream ? " over the stream" : "") + (padded ? " padded" : "") +
                    (grain > 1 ? " in units" : "") + (any_order ? " in any order" : "") + ", prefix " + n(prefix) +
                    (same ? " same" : " shares") + ", heads " + n(q_heads) + "/" + n(kv_heads) + ", dims " + n(dim) + "/" +
                    n(value_dim) + (lo > -sp::unbounded ? ", window" : "") + (accumulate ? ", accumulate" : "") +
                    (short_form ? ", short form" : "") + (sinks ? ", sinks" : "") + (dropout > 0 ? ", dropout" : "") +
                    ", checks " + n(checks) + ", images";
    for (auto const& d : patches) s += " " + n(d.count);
    return s;
  }
};

/// Images of one kind: none, single patches, ragged ones, windows with ragged edges, more ranks than patches.
inline std::vector<index_t> images(std::mt19937_64& g, int kind) {
  auto between = [&](index_t a, index_t b) { return a + index_t(g() % std::uint64_t(b - a + 1)); };
  std::vector<index_t> n;
  if (kind == 1) n = {1};
  if (kind == 2) n = {between(1, 5), 0, 1, between(2, 30)};
  if (kind == 3)
    for (int w = 0; w < 9; ++w) n.push_back((w % 3 == 2 ? 8 : 16) / (w >= 6 ? 2 : 1));
  if (kind == 4) n = {2, 1};
  if (kind == 5) n = {between(20, 60)};
  return n;
}

enum class strategy { any, usp, ulysses }; ///< usp: any that is not nested

inline trial draw(std::uint64_t seed, strategy what, bool features) {
  std::mt19937_64 g(seed);
  auto pick = [&](int n) { return int(g() % std::uint64_t(n)); };
  trial t{seed};
  constexpr int meshes[][3] = {{1, 1, 1}, {3, 1, 1}, {1, 3, 1}, {2, 2, 1}, {4, 1, 1}, {1, 5, 1}, {2, 3, 1}, {2, 1, 1},
                               {8, 1, 1}, {1, 7, 1}, {5, 1, 1}, {3, 2, 1}, {2, 2, 2}, {1, 2, 2}, {2, 1, 3}};
  std::uint64_t const how_many = what == strategy::usp ? 12 : 15; // the nested ones stand last
  auto const& m = meshes[seed % how_many];
  t.ring = m[0], t.ulysses = m[1], t.outer = m[2];
  if (what == strategy::ulysses) t.ulysses *= t.ring * t.outer, t.ring = t.outer = 1;
  t.ring_is_fast = pick(2);
  constexpr sp::schedule schedules[] = {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q};
  t.how = schedules[pick(4)];
  t.head_chunks = 1 + pick(2), t.ulysses_chunks = 1 + pick(3);
  t.keep = pick(2) ? sp::keep::heads : sp::keep::output;
  int const kind = pick(6);
  auto const counts = images(g, kind);
  std::vector<sp::document> list;
  index_t at = 0, gap = pick(3) == 0;
  for (index_t n : counts) {
    list.push_back({at, n, n, 100 - 3 * index_t(list.size())});
    at += n + 2 * gap;
  }
  t.patches = {list, at};
  t.sharding = {pick(3), pick(2) ? sp::scope::stream : sp::scope::document};
  t.grain = kind == 3 && pick(2) ? 4 : 1;
  t.padded = pick(4) == 0, t.any_order = pick(4) == 0;
  constexpr index_t prefixes[] = {0, 1, 1, 3, 3};
  t.prefix = prefixes[seed / how_many % 5]; // with every mesh
  constexpr index_t heads[][2] = {{1, 1}, {4, 4}, {4, 2}, {6, 3}, {7, 7}, {5, 1}};
  auto const& h = heads[pick(6)];
  t.q_heads = h[0], t.kv_heads = h[1];
  t.dim = 1 + pick(6), t.value_dim = 1 + pick(6);
  if (pick(4) == 0) t.lo = -pick(6), t.hi = pick(6);
  t.same = pick(2), t.accumulate = pick(3) == 0, t.short_form = pick(3) == 0;
  constexpr int levels[] = {1, 1, 0, 2, 3};
  t.checks = levels[pick(5)];
  t.order = unsigned(pick(12));
  if (features) t.sinks = pick(3) == 0, t.dropout = pick(3) == 0 ? 0.3 : 0;
  return t;
}

/// Everything over the documents {prefix, patches}, one behind the other, row-major; dout of prefix tokens by rank.
template <class T>
struct inputs {
  sp::documents docs;
  std::vector<double> q, k, v, dout, sinks;
  std::vector<std::vector<double>> dout_of_rank;
  std::vector<index_t> begin; ///< of each document

  explicit inputs(trial const& t) {
    std::vector<sp::document> list;
    index_t at = 0;
    for (auto const& d : t.patches) {
      begin.push_back(at);
      list.push_back({at, t.prefix + d.count, t.prefix + d.count, d.id});
      at += t.prefix + d.count;
    }
    docs = {list, at};
    std::mt19937_64 g(t.seed ^ 0xabc);
    std::normal_distribution<double> normal;
    auto fill = [&](std::vector<double>& x, index_t n) {
      for (index_t i = 0; i < n; ++i) x.push_back(double(T(float(normal(g)))));
    };
    fill(q, at * t.q_heads * t.dim), fill(k, at * t.kv_heads * t.dim), fill(v, at * t.kv_heads * t.value_dim);
    fill(dout, at * t.q_heads * t.value_dim), fill(sinks, t.q_heads);
    dout_of_rank.assign(std::size_t(t.ranks()), dout);
    if (t.same) return;
    index_t const row = t.q_heads * t.value_dim;
    for (std::size_t r = 1; r < dout_of_rank.size(); ++r) dout_of_rank[r].clear(), fill(dout_of_rank[r], at * row);
    for (index_t first : begin)
      for (index_t i = first * row; i < (first + t.prefix) * row; ++i)
        for (std::size_t r = 1; r < dout_of_rank.size(); ++r) dout[std::size_t(i)] += dout_of_rank[r][std::size_t(i)];
  }

  support::oracle::result truth(trial const& t) const {
    support::oracle o(docs.length(), docs.length(), t.q_heads, t.kv_heads, t.dim, t.value_dim);
    o.q = q, o.k = k, o.v = v;
    if (t.sinks) o.sinks = sinks;
    if (t.dropout > 0) o.keep = support::dropout_of(t.random(), t.dropout);
    support::place_tokens(o, docs, docs);
    auto document = [&](index_t i) {
      std::size_t d = 0;
      while (!(docs[d].begin <= i && i < docs[d].end())) ++d;
      return d;
    };
    o.see([&](index_t i, index_t j) { return document(i) == document(j) && t.lo <= j - i && j - i <= t.hi; });
    return o.backward(dout);
  }
};

/// Where the rows of a rank's tensors stand in the documents {prefix, patches}: -1 for slack.
inline std::vector<index_t> places(trial const& t, std::vector<index_t> const& begin, sp::batch const& b) {
  std::vector<index_t> rows;
  for (index_t first : begin)
    for (index_t i = 0; i < t.prefix; ++i) rows.push_back(first + i);
  for (auto const& r : b.runs())
    for (index_t i = 0; i < r.count; ++i) {
      index_t at = -1;
      for (std::size_t d = 0; d < begin.size(); ++d)
        if (b.docs()[d].begin <= r.at(i) && r.at(i) < b.docs()[d].end()) at = begin[d] + t.prefix + r.at(i) - b.docs()[d].begin;
      rows.push_back(at);
    }
  return rows;
}

inline constexpr float start = 0.5; ///< what gradients hold before a call that adds to them

/// All tensors of one rank between canaries. Slack rows of inputs are NaN, and so are prefix rows of ranks that nobody asks.
template <class T>
struct rank_tensors {
  std::vector<index_t> rows;
  strided_tensor<T> q, k, v, out, dout, dq, dk, dv;
  std::vector<sums_of<T>> sinks, dsinks;

  rank_tensors(trial const& t, inputs<T> const& in, sp::batch const& b)
      : rows(places(t, in.begin, b)), q(size(), t.q_heads, t.dim, t.order, nan()),
        k(size(), t.kv_heads, t.dim, t.order + 1, nan()), v(size(), t.kv_heads, t.value_dim, t.order + 2, nan()),
        out(size(), t.q_heads, t.value_dim, t.order, nan()), dout(size(), t.q_heads, t.value_dim, t.order + 1, nan()),
        dq(size(), t.q_heads, t.dim, t.order + 2, before(t)), dk(size(), t.kv_heads, t.dim, t.order, before(t)),
        dv(size(), t.kv_heads, t.value_dim, t.order + 1, before(t)), sinks(in.sinks.begin(), in.sinks.end()),
        dsinks(in.sinks.size(), before_sinks(t)) {
    bool const asked = b.part() == 0 || t.checks > 2; // whether its prefix rows of q, k and v are read
    take(q.v, in.q, asked ? 0 : t.prefix_rows());
    take(k.v, in.k, asked ? 0 : t.prefix_rows());
    take(v.v, in.v, asked ? 0 : t.prefix_rows());
    take(dout.v, in.dout_of_rank[std::size_t(b.part())], 0);
    for (index_t i = t.prefix_rows(); i < size(); ++i) // patches have one owner
      if (rows[std::size_t(i)] >= 0) set(dout.v, i, in.dout);
  }
  static T nan() { return T(std::numeric_limits<float>::quiet_NaN()); }
  static T before(trial const& t) { return t.accumulate ? T(start) : nan(); }
  static sums_of<T> before_sinks(trial const& t) { return sums_of<T>(t.accumulate ? start : 77); }

  sp::attention_extras<T> extras(trial const& t, bool backward) {
    sp::attention_extras<T> e;
    if (t.sinks) e.sinks = {sinks.data(), {t.q_heads}};
    if (t.sinks && backward) e.dsinks = {dsinks.data(), {t.q_heads}};
    e.accumulate = backward && t.accumulate;
    if (t.short_form) e.random = t.random();
    return e;
  }
  bool intact() const {
    for (auto const* x : {&q, &k, &v, &out, &dout, &dq, &dk, &dv})
      if (!x->intact()) return false;
    return true;
  }

private:
  index_t size() const { return index_t(rows.size()); }
  void set(sp::view<T, 3> const& to, index_t i, std::vector<double> const& from) const {
    for (index_t h = 0; h < to.extent(1); ++h)
      for (index_t d = 0; d < to.extent(2); ++d)
        to(i, h, d) = T(float(from[std::size_t((rows[std::size_t(i)] * to.extent(1) + h) * to.extent(2) + d)]));
  }
  void take(sp::view<T, 3> const& to, std::vector<double> const& from, index_t first) const {
    for (index_t i = first; i < size(); ++i)
      if (rows[std::size_t(i)] >= 0) set(to, i, from);
  }
};

/// out, dq, dk and dv over the documents {prefix, patches}, prefix rows of rank 0; and what is wrong besides their numbers.
template <class T>
struct outcome {
  std::vector<double> results[4];
  std::vector<double> dsinks;
  std::vector<std::vector<double>> prefix[4]; ///< by rank
  std::vector<sp::ledger> ledgers;            ///< by rank
  std::vector<std::string> complaints;
  std::mutex lock;

  outcome(trial const& t, inputs<T> const& in) : dsinks(std::size_t(t.q_heads), 0.0), ledgers(std::size_t(t.ranks())) {
    index_t const n = in.docs.length(),
                  width[] = {t.q_heads * t.value_dim, t.q_heads * t.dim, t.kv_heads * t.dim, t.kv_heads * t.value_dim};
    for (int i = 0; i < 4; ++i) results[i].assign(std::size_t(n * width[i]), NAN), prefix[i].resize(std::size_t(t.ranks()));
  }
  void complain(std::string what) {
    std::lock_guard hold(lock);
    complaints.push_back(std::move(what));
  }
  /// Results of one rank; slack rows must be 0, or what they were.
  void add(trial const& t, rank_tensors<T> const& x, int rank) {
    std::lock_guard hold(lock);
    strided_tensor<T> const* all[] = {&x.out, &x.dq, &x.dk, &x.dv};
    for (int n = 0; n < 4; ++n) {
      auto const& v = all[n]->v;
      for (index_t i = 0; i < v.extent(0); ++i)
        for (index_t h = 0; h < v.extent(1); ++h)
          for (index_t d = 0; d < v.extent(2); ++d) {
            double const value = double(v(i, h, d));
            bool const of_prefix = i < t.prefix_rows();
            if (of_prefix) prefix[n][std::size_t(rank)].push_back(value);
            if (index_t const at = x.rows[std::size_t(i)]; at < 0) {
              if (value != (n > 0 && t.accumulate ? start : 0)) complaints.push_back("a slack row was written");
            } else if (!of_prefix || rank == 0) {
              results[n][std::size_t((at * v.extent(1) + h) * v.extent(2) + d)] = value - (n > 0 && t.accumulate ? start : 0);
            }
          }
    }
    for (std::size_t h = 0; h < dsinks.size(); ++h) dsinks[h] += double(x.dsinks[h]) - (t.accumulate ? start : 0);
    if (!x.intact()) complaints.push_back("a canary is gone");
  }
};

/// forward and backward of one object on one rank; in long form with exactly the memory that it says it takes.
template <class T, class Object>
void step(Object const& attention, trial const& t, sp::batch const& b, rank_tensors<T>& x,
          outcome<T>& to) requires(std::is_same_v<typename Object::memory_type, sp::host_memory>) {
  if (t.short_form) {
    auto saved = attention.forward(b, x.q.v, x.k.v, x.v.v, x.out.v, x.extras(t, false));
    return attention.backward(b, std::move(saved), x.q.v, x.k.v, x.v.v, x.out.v, x.dout.v, x.dq.v, x.dk.v, x.dv.v,
                              x.extras(t, true));
  }
  auto const prepared = attention.prepare(b);
  auto aligned = [](index_t n) { return std::vector<std::max_align_t>((std::size_t(n) + 127) / sizeof(std::max_align_t) + 8); };
  auto begin = [](std::vector<std::max_align_t>& m) {
    auto const at = reinterpret_cast<std::uintptr_t>(m.data());
    return reinterpret_cast<std::byte*>((at + sp::allocator::alignment - 1) / sp::allocator::alignment *
                                        sp::allocator::alignment);
  };
  index_t const scratch_bytes = attention.template scratch_bytes<T>(prepared, t.shape()),
                saved_bytes = attention.template saved_bytes<T>(prepared, t.shape());
  auto of_scratch = aligned(scratch_bytes), of_saved = aligned(saved_bytes);
  sp::workspace scratch(begin(of_scratch), std::size_t(scratch_bytes)), kept(begin(of_saved), std::size_t(saved_bytes));
  sp::context const ctx(scratch, kept, t.random());
  auto saved = attention.forward(prepared, ctx, x.q.read(), x.k.read(), x.v.read(), x.out.v, x.extras(t, false));
  attention.backward(prepared, ctx, std::move(saved), x.q.read(), x.k.read(), x.v.read(), x.out.v, x.dout.read(), x.dq.v, x.dk.v,
                     x.dv.v, x.extras(t, true));
  if (scratch.room() != std::size_t(scratch_bytes)) to.complain("scratch is still in use");
}

/// What is wrong with the bytes that moved because of prefix tokens, from the formulas; empty if nothing is.
template <class T>
std::string judge_bytes(trial const& t, std::vector<sp::ledger> const& ledgers) {
  index_t const ranks = t.ranks(), rows = t.prefix_rows() * index_t(sizeof(T)), out = t.q_heads * t.value_dim,
                gradients = t.q_heads * t.dim + t.kv_heads * (t.dim + t.value_dim);
  bool const moves = ranks > 1 && rows > 0;
  sp::vit_bytes total{};
  std::string wrong;
  for (index_t r = 0; r < ranks; ++r) {
    auto const forward = ledgers[std::size_t(r)].of("vit_attention.forward"),
               backward = ledgers[std::size_t(r)].of("vit_attention.backward");
    index_t const sent = r == 0 ? (ranks - 1) * rows * out : 0;
    index_t const back = t.same ? (r == 0 ? (ranks - 1) * rows * gradients : 0) : r > 0 ? rows * out : 0;
    if (forward.bytes_sent != sent || backward.bytes_sent != back) wrong += "bytes of rank " + std::to_string(r) + "; ";
    if (forward.operations != moves || backward.operations != moves) wrong += "exchanges of rank " + std::to_string(r) + "; ";
    total.forward += forward.bytes_sent, total.backward += backward.bytes_sent;
  }
  auto formula = [&](auto contract) {
    return sp::vit_attention_bytes(contract, ranks, t.prefix_rows(), t.shape(), index_t(sizeof(T)));
  };
  if (total != (t.same ? formula(sp::same{}) : formula(sp::shares{}))) wrong += "bytes are not those of the closed form; ";
  return wrong;
}

/// On each rank: the trial's batch, make(trial, communicator) as the attention inside, and what it found.
template <class T, class Comm, class Make>
void run_rank(trial const& t, inputs<T> const& in, Comm const& c, Make const& make, outcome<T>& to) {
  sp::batch_options const how{t.padded ? sp::shapes::padded : sp::shapes::ragged};
  sp::batch b{t.patches, sp::grained{t.sharding, t.grain}, c, how};
  if (t.any_order) b = support::shuffled(b, t.seed);
  rank_tensors<T> x(t, in, b);
  if (t.same)
    step<T>(sp::vit_attention{c, make(t, c), sp::same{}, {.prefix = t.prefix}}, t, b, x, to);
  else
    step<T>(sp::vit_attention{c, make(t, c), sp::shares{}, {.prefix = t.prefix}}, t, b, x, to);
  to.add(t, x, c.rank());
}

/// What is wrong with the results; empty if nothing is.
template <class T>
std::string judge(trial const& t, inputs<T> const& in, outcome<T> const& got, double bound) {
  static constexpr char const* names[] = {"out", "dq", "dk", "dv"};
  auto const truth = in.truth(t);
  std::vector<double> const* want[] = {&truth.out, &truth.dq, &truth.dk, &truth.dv};
  std::string wrong;
  for (auto const& c : got.complaints) wrong += c + "; ";
  for (int n = 0; n < 4; ++n) {
    if (double const e = support::relative_error(got.results[n], *want[n]); !(e <= bound))
      wrong += std::string(names[n]) + " is off by " + std::to_string(e / bound) + " bounds; ";
    bool const everywhere = n == 0 || t.same;
    for (std::size_t r = 1; r < got.prefix[n].size(); ++r)
      for (std::size_t i = 0; i < got.prefix[n][r].size(); ++i)
        if (double const here = got.prefix[n][r][i], expected = everywhere     ? got.prefix[n][0][i]
                                                                : t.accumulate ? start
                                                                               : 0;
            std::memcmp(&here, &expected, sizeof here) != 0) {
          wrong += std::string(names[n]) + " of prefix tokens on rank " + std::to_string(r) + " is another; ";
          break;
        }
  }
  if (t.sinks && !(support::relative_error(got.dsinks, truth.dsinks) <= 4 * bound)) wrong += "dsinks; ";
  return wrong;
}

/// So many trials; sanitizers slow all down tenfold.
inline std::uint64_t trials(std::uint64_t n) {
#ifdef SP_TEST_SANITIZED
  return n / 4;
#else
  return n;
#endif
}

inline sp::threads_options patience() { return {.deadline = std::chrono::seconds(30)}; }

/// A whole trial; `bound` is relative, in the Euclidean norm.
template <class T, class Make>
void conform(trial const& t, double bound, Make const& make) {
  inputs<T> const in(t);
  outcome<T> got(t, in);
  std::string wrong;
  try {
    sp::threads::run(
        t.ranks(), [&](sp::threads const& c) { run_rank<T>(t, in, comm(c, got.ledgers[std::size_t(c.rank())]), make, got); },
        patience());
    wrong = judge(t, in, got, bound) + judge_bytes<T>(t, got.ledgers);
  } catch (std::exception const& e) {
    wrong = e.what();
  }
  INFO(t.describe());
  CHECK(wrong == "");
}

/// Ulysses in a ring, either of which may be of one rank.
template <class Comm, class Kernel>
auto usp(trial const& t, Comm const& c, Kernel kernel) {
  sp::axis::ring const ring{t.ring};
  sp::axis::ulysses const ulysses{t.ulysses};
  sp::mesh const mesh = t.ring_is_fast ? sp::mesh{ulysses, ring} : sp::mesh{ring, ulysses};
  return sp::ulysses_attention{
      mesh.ulysses(c), sp::ring_attention{mesh.ring(c), std::move(kernel), t.options()}, {t.keep, t.ulysses_chunks}};
}
/// A Ulysses around that.
template <class Comm, class Kernel>
auto nested(trial const& t, Comm const& c, Kernel kernel) {
  sp::axis::named const outer("outer", t.outer);
  sp::axis::ring const ring{t.ring};
  sp::axis::ulysses const ulysses{t.ulysses};
  sp::mesh const all{outer, ring, ulysses};
  sp::group const around(all.along(c, {"outer"}).inner(), t.ring * t.ulysses);
  return sp::ulysses_attention{around, usp(t, all.sequence(c).inner(), std::move(kernel)), {t.keep, t.ulysses_chunks}};
}

} // namespace vit
