// Linear attention over a sharded stream, of any kernel and strategy, and what the recurrence makes of the whole stream.
// The oracle knows documents and nothing of ranks; slack rows, gaps between rows and what is to be overwritten hold NaN.
#pragma once

#include <doctest/doctest.h>

#include <cmath>
#include <deque>
#include <future>
#include <limits>
#include <random>
#include <stdexcept>
#include <vector>

#include <sp/counting.hpp>
#include <sp/linear.hpp>

#include "linear/recurrence.hpp"
#include "support/places.hpp"
#include "support/sharding.hpp"

namespace linear_trial {

using sp::index_t;
using numbers = std::vector<double>;
inline constexpr double rubbish = std::numeric_limits<double>::quiet_NaN();

inline std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

struct scene {
  sp::documents docs;
  sp::linear_shape shape{0, 1, 2, 4, 3}; ///< rows do not count
  bool normalise = true, initial = false, final = false;
  double most_decay = 0.2;

  index_t state() const { return shape.v_heads * shape.key_dim * shape.value_dim; }
  index_t states() const { return index_t(docs.size()) * state(); }
};

/// Numbers by name, row-major: tensors (stream, heads, width), states (documents, value heads, key dim, value dim).
struct inputs {
  numbers q, k, v, dout, initial, dfinal;
  std::vector<numbers> gates;
};
struct results {
  numbers out, dq, dk, dv, final, dinitial;
  std::vector<numbers> dgates;
};

/// Log decays first, then betas.
template <class Kernel>
index_t gate_width(scene const& s, std::size_t gate) {
  return Kernel::gate_width(int(gate), s.shape.key_dim);
}

/// Numbers that T holds exactly.
template <class T>
numbers drawn(index_t n, std::mt19937& random, double low = -1, double high = 1) {
  numbers v(at(n));
  for (double& x : v) x = double(T(float(low + (high - low) * double(random() % 2001) / 2000)));
  return v;
}
template <class Kernel, class T>
inputs draw(scene const& s, std::mt19937& random) {
  index_t const n = s.docs.length(), keys = n * s.shape.k_heads * s.shape.key_dim,
                values = n * s.shape.v_heads * s.shape.value_dim;
  inputs in{drawn<T>(keys, random),
            drawn<T>(keys, random),
            drawn<T>(values, random),
            drawn<T>(values, random),
            drawn<float>(s.states(), random),
            drawn<float>(s.states(), random),
            {}};
  for (int i = 0; i < Kernel::gates; ++i)
    in.gates.push_back(i == 0 ? drawn<float>(n * s.shape.v_heads * gate_width<Kernel>(s, 0), random, -s.most_decay, 0)
                              : drawn<float>(n * s.shape.v_heads, random, 0, s.normalise ? 2 : 0.3));
  return in;
}

// ---- the oracle --------------------------------------------------------------------------------------------------------------------

template <class Kernel>
class oracle {
public:
  results r;

  oracle(scene const& s, inputs const& in) : s_(s), in_(in) {
    r.out.assign(in.v.size(), 0), r.dv = r.out;
    r.dq.assign(in.q.size(), 0), r.dk = r.dq;
    r.final.assign(in.initial.size(), 0), r.dinitial = r.final;
    for (numbers const& g : in.gates) r.dgates.emplace_back(g.size(), 0);
    for (std::size_t d = 0; d < s.docs.size(); ++d)
      for (index_t h = 0; h < s.shape.v_heads; ++h) one_head(d, h);
  }

private:
  using table = linear_tests::table<double>;
  scene const& s_;
  inputs const& in_;

  /// f(number of the table, number of the tensor) for one head's rows of a document.
  template <class F>
  void each(std::size_t d, index_t heads, index_t head, index_t width, F&& f) const {
    for (index_t t = 0; t < s_.docs[d].count; ++t)
      for (index_t c = 0; c < width; ++c) f(at(t), at(c), at(((s_.docs[d].begin + t) * heads + head) * width + c));
  }
  table read(numbers const& x, std::size_t d, index_t heads, index_t head, index_t width) const {
    table t(at(s_.docs[d].count), at(width));
    each(d, heads, head, width, [&](std::size_t i, std::size_t c, std::size_t from) { t(i, c) = x[from]; });
    return t;
  }
  void add(table const& t, numbers& x, std::size_t d, index_t heads, index_t head, index_t width) const {
    each(d, heads, head, width, [&](std::size_t i, std::size_t c, std::size_t to) { x[to] += t(i, c); });
  }
  table state(numbers const& x, bool given, std::size_t d, index_t h) const {
    table t(at(s_.shape.key_dim), at(s_.shape.value_dim));
    for (std::size_t i = 0; given && i < t.x.size(); ++i) t.x[i] = x[place(d, h) + i];
    return t;
  }
  std::size_t place(std::size_t d, index_t h) const {
    return at((index_t(d) * s_.shape.v_heads + h) * s_.shape.key_dim * s_.shape.value_dim);
  }
  linear_tests::head_inputs<double> inputs_of(std::size_t d, index_t h, index_t key_head) const {
    auto const& x = s_.shape;
    linear_tests::head_inputs<double> in{read(in_.q, d, x.k_heads, key_head, x.key_dim),
                                         read(in_.k, d, x.k_heads, key_head, x.key_dim),
                                         read(in_.v, d, x.v_heads, h, x.value_dim),
                                         table(at(s_.docs[d].count), at(x.key_dim)),
                                         {},
                                         state(in_.initial, s_.initial, d, h)};
    if (Kernel::gates > 0) {
      index_t const width = gate_width<Kernel>(s_, 0);
      table const g = read(in_.gates[0], d, x.v_heads, h, width);
      for (std::size_t i = 0; i < in.g.x.size(); ++i) in.g.x[i] = g(i / at(x.key_dim), width == 1 ? 0 : i % at(x.key_dim));
    }
    if (Kernel::gates > 1) in.b = read(in_.gates[1], d, x.v_heads, h, 1).x;
    return in;
  }
  void one_head(std::size_t d, index_t h) {
    auto const& x = s_.shape;
    index_t const key_head = h / (x.v_heads / x.k_heads), width = Kernel::gates > 0 ? gate_width<Kernel>(s_, 0) : 0;
    linear_tests::recurrence<double> const all(inputs_of(d, h, key_head), s_.normalise, 1 / std::sqrt(double(x.key_dim)));
    auto const back = all.backward({read(in_.dout, d, x.v_heads, h, x.value_dim), state(in_.dfinal, s_.final, d, h)});
    add(all.result.out, r.out, d, x.v_heads, h, x.value_dim);
    add(back.q, r.dq, d, x.k_heads, key_head, x.key_dim), add(back.k, r.dk, d, x.k_heads, key_head, x.key_dim);
    add(back.v, r.dv, d, x.v_heads, h, x.value_dim);
    if (Kernel::gates > 0)
      for (index_t t = 0; t < s_.docs[d].count; ++t)
        for (index_t c = 0; c < x.key_dim; ++c)
          r.dgates[0][at(((s_.docs[d].begin + t) * x.v_heads + h) * width + (width == 1 ? 0 : c))] += back.g(at(t), at(c));
    for (std::size_t t = 0; t < back.b.size(); ++t) r.dgates[1][at((s_.docs[d].begin + index_t(t)) * x.v_heads + h)] = back.b[t];
    for (std::size_t i = 0; i < all.result.s.x.size(); ++i)
      r.final[place(d, h) + i] = all.result.s.x[i], r.dinitial[place(d, h) + i] = back.s.x[i];
  }
};

// ---- the same, sharded --------------------------------------------------------------------------------------------------------------

struct cut {
  int parts = 1;
  support::any_sharding how{};
  std::vector<std::vector<sp::run>> listed{}; ///< unless empty: instead of `how`
  sp::shapes shapes = sp::shapes::ragged;
  sp::linear_attention_options options{};

  sp::batch batch(scene const& s, int part) const {
    if (!listed.empty()) return {s.docs, sp::layout(s.docs, listed), part};
    return {s.docs, how, part, parts, {shapes}};
  }
};

template <class T>
std::vector<T> as(numbers const& v) {
  std::vector<T> r;
  for (double x : v) r.push_back(T(float(x)));
  if constexpr (std::is_same_v<T, double>) r.assign(v.begin(), v.end());
  return r;
}

/// Rows of `width` numbers in room for one more, NaN, for each head; a rank's own, slack NaN.
inline numbers local(sp::batch const& b, numbers const& global, index_t heads, index_t width) {
  numbers r(at(b.tokens() * heads * (width + 1)), rubbish);
  sp::for_each_row(b, [&](sp::local_row const& row) {
    for (index_t i = 0; row.real && i < heads * width; ++i)
      r[at((row.row * heads + i / width) * (width + 1) + i % width)] =
          global[at(sp::source_position(b, row) * heads * width + i)];
  });
  return r;
}
/// The other way round: slack must be 0, and the room beside rows as it was.
inline bool put(sp::batch const& b, numbers const& mine, numbers& global, index_t heads, index_t width) {
  bool good = true;
  sp::for_each_row(b, [&](sp::local_row const& row) {
    for (index_t i = 0; i < heads * width; ++i) {
      double const x = mine[at((row.row * heads + i / width) * (width + 1) + i % width)];
      if (row.real)
        global[at(sp::source_position(b, row) * heads * width + i)] = x;
      else
        good = good && x == 0;
    }
  });
  for (std::size_t i = at(width); i < mine.size(); i += at(width + 1)) good = good && std::isnan(mine[i]);
  return good;
}

/// A rank's results: tensors with the room beside their rows, whole states, and what it sent.
struct part {
  results local;
  index_t forward_bytes = 0, backward_bytes = 0, operations = 0;
  sp::linear_strategy strategy{};
  sp::detail::linear_bytes stated{}; ///< of all ranks together
};

/// The ranks as one: `agreed` says that slack is 0, that nothing was written beside rows and that final states are the same everywhere.
template <class Kernel>
results joined(scene const& s, cut const& k, std::vector<part> const& parts, bool& agreed) {
  auto const& x = s.shape;
  index_t const n = s.docs.length();
  results r;
  r.out.assign(at(n * x.v_heads * x.value_dim), 0), r.dv = r.out;
  r.dq.assign(at(n * x.k_heads * x.key_dim), 0), r.dk = r.dq;
  for (int i = 0; i < Kernel::gates; ++i) r.dgates.emplace_back(at(n * x.v_heads * gate_width<Kernel>(s, std::size_t(i))), 0);
  r.final = parts[0].local.final, r.dinitial.assign(parts[0].local.dinitial.size(), 0);
  agreed = true;
  for (int p = 0; p < k.parts; ++p) {
    results const& mine = parts[at(p)].local;
    sp::batch const b = k.batch(s, p);
    bool good = put(b, mine.out, r.out, x.v_heads, x.value_dim) && put(b, mine.dv, r.dv, x.v_heads, x.value_dim);
    good = good && put(b, mine.dq, r.dq, x.k_heads, x.key_dim) && put(b, mine.dk, r.dk, x.k_heads, x.key_dim);
    for (std::size_t i = 0; i < r.dgates.size(); ++i)
      good = good && put(b, mine.dgates[i], r.dgates[i], x.v_heads, gate_width<Kernel>(s, i));
    for (std::size_t i = 0; i < r.dinitial.size(); ++i) r.dinitial[i] += mine.dinitial[i];
    agreed = agreed && good && mine.final == r.final;
  }
  return r;
}

/// Share of `rank` in dfinal: different ones, whose sum is exact.
inline numbers share_of(numbers const& whole, int rank, int parts) {
  numbers r(whole.size(), 0);
  for (std::size_t i = 0; i < whole.size(); ++i)
    if (parts == 1 || int(i) % parts == rank)
      r[i] = parts == 1 ? whole[i] : 2 * whole[i];
    else if ((int(i) + 1) % parts == rank)
      r[i] = -whole[i];
  return r;
}

/// Tensors of one rank in its place.
template <class T, class Place>
struct tensor3 {
  typename Place::template tensor<T, 3> memory;
  index_t width;
  tensor3(Place& here, sp::batch const& b, index_t heads, index_t w, numbers const& values)
      : memory(here, {b.tokens(), heads, w + 1}, as<T>(values)), width(w) {}
  /// To be written.
  tensor3(Place& here, sp::batch const& b, index_t heads, index_t w)
      : tensor3(here, b, heads, w, numbers(at(b.tokens() * heads * (w + 1)), rubbish)) {}
  auto operator*() { return (*memory).narrow(2, 0, width); }
  numbers download() const {
    auto const v = memory.download();
    return numbers(v.begin(), v.end());
  }
};

/// Forward, then backward.
struct in_turn {
  template <class Place, class Attention, class Prepared, class Operands, class Gradients, class Between>
  void operator()(Place& here, Attention const& a, Prepared const& p, Operands const& o, Gradients const& g,
                  Between between) const {
    auto const ctx = here.context();
    auto saved = a.forward(p, ctx, o);
    between();
    a.backward(p, ctx, std::move(saved), g);
  }
};
/// The same on two threads, of which the first has ended when the second begins. No list that the host made on one may outlive it.
struct on_threads {
  template <class Place, class Attention, class Prepared, class Operands, class Gradients, class Between>
  void operator()(Place& here, Attention const& a, Prepared const& p, Operands const& o, Gradients const& g,
                  Between between) const {
    auto const ctx = here.context();
    auto saved = ended([&] { return a.forward(p, ctx, o); });
    between();
    ended([&] { return a.backward(p, ctx, std::move(saved), g), true; });
  }
  template <class F>
  static auto ended(F const& f) {
    auto call = [&] {
      auto result = f();
      auto const left = static_cast<sp::pool&>(sp::detail::lists_of_thread()).bytes_in_use();
      if (left > 0) throw std::logic_error("a call left " + std::to_string(left) + " bytes in lists of its thread");
      return result;
    };
    return std::async(std::launch::async, call).get();
  }
};

/// Forward, backward, and then infer, whose outputs remain, in no more bytes than are said beforehand.
struct in_exact_memory {
  template <class Place, class Attention, class Prepared, class T, int Gates, class M, class Gradients, class Between>
  void operator()(Place& here, Attention const& a, Prepared const& p, sp::linear_operands<T, Gates, M> const& o,
                  Gradients const& g, Between between) const {
    auto const q = o.q.get("q"), v = o.v.get("v");
    sp::linear_shape const s{0, q.extent(1), v.extent(1), q.extent(2), v.extent(2)};
    index_t const of_scratch = a.template scratch_bytes<T>(p, s, here.context().queue), of_kept = a.template saved_bytes<T>(p, s);
    sp::owned<std::byte, 1, M> const room(here.memory, {of_scratch}), more(here.memory, {of_kept});
    sp::basic_workspace<M> scratch(room.tensor.data, at(of_scratch)), kept(more.tensor.data, at(of_kept));
    auto const ctx = here.context().with(scratch, kept);
    auto saved = a.forward(p, ctx, o);
    between();
    a.backward(p, ctx, std::move(saved), g);
    sp::fill(ctx.queue, o.out.get("out"), T(rubbish));
    if (o.final_state.data) sp::fill(ctx.queue, o.final_state, sp::accumulate_t<T>(rubbish));
    a.infer(p, ctx, o);
    if (scratch.room() != at(of_scratch) || kept.room() != at(of_kept)) throw std::logic_error("calls have not given all back");
  }
};

/// Forward and backward on one rank with all operands that the scene has.
template <class Kernel, class T, class Place, class Calls>
part run_rank(Place& here, scene const& s, cut const& k, inputs const& in) {
  using A = sp::accumulate_t<T>;
  using M = typename Place::ranks::memory_type;
  using rows = tensor3<T, Place>;
  using sums = tensor3<A, Place>;
  auto const& x = s.shape;
  auto const& comm = here.comm;
  auto const ctx = here.context();
  sp::ledger ledger;
  sp::batch const b = k.batch(s, comm.rank());
  sp::linear_attention const attention{sp::counting(comm, ledger), Kernel(sp::linear_options{.normalise = s.normalise}),
                                       k.options};
  auto given = [&](numbers const& global, index_t heads, index_t width) {
    return rows(here, b, heads, width, local(b, global, heads, width));
  };
  rows q = given(in.q, x.k_heads, x.key_dim), key = given(in.k, x.k_heads, x.key_dim), v = given(in.v, x.v_heads, x.value_dim),
       dout = given(in.dout, x.v_heads, x.value_dim), out(here, b, x.v_heads, x.value_dim), dq(here, b, x.k_heads, x.key_dim),
       dk(here, b, x.k_heads, x.key_dim), dv(here, b, x.v_heads, x.value_dim);
  std::deque<sums> gates, dgates; // which stay where they are
  for (std::size_t i = 0; i < in.gates.size(); ++i) {
    index_t const width = gate_width<Kernel>(s, i);
    gates.emplace_back(here, b, x.v_heads, width, local(b, in.gates[i], x.v_heads, width));
    dgates.emplace_back(here, b, x.v_heads, width);
  }
  std::array<index_t, 4> const states{index_t(s.docs.size()), x.v_heads, x.key_dim, x.value_dim};
  numbers const empty(in.initial.size(), rubbish);
  typename Place::template tensor<A, 4> initial(here, states, as<A>(in.initial)), final(here, states, as<A>(empty)),
      dinitial(here, states, as<A>(empty)), dfinal(here, states, as<A>(share_of(in.dfinal, comm.rank(), k.parts)));
  part mine;
  {
    auto const p = attention.prepare(b, ctx);
    mine.strategy = attention.template strategy_for<T>(p, x);
    mine.stated = attention.template bytes<T>(p, x, mine.strategy);
    ledger.clear();
    sp::linear_operands<T, Kernel::gates, M> o{.q = *q, .k = *key, .v = *v, .out = *out};
    sp::linear_gradients<T, Kernel::gates, M> g{.q = *q, .k = *key, .v = *v, .dout = *dout, .dq = *dq, .dk = *dk, .dv = *dv};
    for (std::size_t i = 0; i < gates.size(); ++i) o.gates[i] = g.gates[i] = *gates[i], g.dgates[i] = *dgates[i];
    if (s.initial) o.initial_state = *initial, g.initial_state = *initial, g.dinitial_state = *dinitial;
    if (s.final) o.final_state = *final, g.dfinal_state = *dfinal;
    auto sent = [&] { return ledger.total().bytes_sent; };
    Calls{}(here, attention, p, o, g, [&] { mine.forward_bytes = sent(); });
    mine.backward_bytes = sent() - mine.forward_bytes;
  }
  auto read = [](auto const& t) {
    auto const values = t.download();
    return numbers(values.begin(), values.end());
  };
  mine.local = {out.download(), dq.download(), dk.download(), dv.download(), {}, {}, {}};
  for (auto const& g : dgates) mine.local.dgates.push_back(g.download());
  if (s.final) mine.local.final = read(final);
  if (s.initial) mine.local.dinitial = read(dinitial);
  return mine;
}

template <class Kernel, class T, class Place = support::host_place, class Calls = in_turn>
std::vector<part> run(scene const& s, cut const& k, inputs const& in, unsigned seed = 1) {
  return support::on_all_ranks<Place>(
      k.parts, [&](Place& here) { return run_rank<Kernel, T, Place, Calls>(here, s, k, in); }, support::interleaving(seed % 3),
      seed);
}

/// The largest |a - b| / (1 + |b|); infinite for NaN and for lists of unequal lengths.
inline double error(numbers const& a, numbers const& b) {
  double worst = a.size() == b.size() ? 0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    double const e = std::fabs(a[i] - b[i]) / (1 + std::fabs(b[i]));
    worst = e <= worst ? worst : std::isnan(e) ? std::numeric_limits<double>::infinity() : e;
  }
  return worst;
}
/// Errors of everything a scene asks for.
inline double error(scene const& s, results const& a, results const& b) {
  double worst = std::max({error(a.out, b.out), error(a.dq, b.dq), error(a.dk, b.dk), error(a.dv, b.dv),
                           s.final ? error(a.final, b.final) : 0, s.initial ? error(a.dinitial, b.dinitial) : 0});
  for (std::size_t i = 0; i < b.dgates.size(); ++i) worst = std::max(worst, error(a.dgates[i], b.dgates[i]));
  return worst;
}

/// What a trial in T may be off: the bound, and in float twice what one rank is off, beside a few units of the last place.
template <class Kernel, class T, class Place>
double allowed(scene const& s, inputs const& in, results const& expected, double bound) {
  if constexpr (!std::is_same_v<T, float>) return bound;
  bool agreed = false;
  return std::min(bound, 2 * error(s, joined<Kernel>(s, {}, run<Kernel, T, Place>(s, {}, in), agreed), expected) + 4 * 6e-8);
}

/// All ranks together send what was said beforehand.
inline void check_stated_bytes(std::vector<part> const& parts) {
  index_t forward = 0, backward = 0;
  for (part const& p : parts) forward += p.forward_bytes, backward += p.backward_bytes;
  CHECK(parts[0].stated.forward == forward);
  CHECK(parts[0].stated.backward == backward);
}

/// Whether rows of a tensor (stream, ...) are the same bits, those excepted that `changes` names.
template <class Changes>
bool same_rows(numbers const& a, numbers const& b, index_t rows, Changes const& changes) {
  std::size_t const width = a.size() / at(rows);
  bool same = a.size() == b.size();
  for (index_t t = 0; t < rows; ++t)
    for (std::size_t i = at(t) * width; i < at(t + 1) * width && !changes(t); ++i) same = same && a[i] == b[i];
  return same;
}

// ---- draws --------------------------------------------------------------------------------------------------------------------------

/// Documents of few tokens, empty ones and ones of one token among them, with gaps.
inline sp::documents drawn_documents(std::mt19937& random, int most) {
  std::vector<sp::document> list;
  index_t begin = 0;
  for (int d = 0, n = 1 + int(random() % 5); d < n; ++d) {
    index_t const count = random() % 4 == 0 ? index_t(random() % 2) : index_t(random() % unsigned(most));
    begin += random() % 3 == 0 ? 2 : 0;
    list.push_back({begin, count, count, d});
    begin += count;
  }
  return {std::move(list), begin + index_t(random() % 3)};
}
/// Pieces of all documents, of any length, to any ranks, in any order.
inline std::vector<std::vector<sp::run>> drawn_runs(sp::documents const& docs, int parts, std::mt19937& random) {
  std::vector<std::vector<sp::run>> list(at(parts));
  for (sp::document const& d : docs)
    for (index_t first = 0; first < d.room;) {
      index_t const count = std::min(d.room - first, 1 + index_t(random() % 9));
      auto& runs = list[random() % list.size()];
      runs.insert(runs.begin() + std::ptrdiff_t(random() % (runs.size() + 1)), {d.begin + first, count, 1});
      first += count;
    }
  return list;
}
/// Any cut into consecutive tokens; over the stripes too where a strategy takes them.
inline cut drawn_cut(scene const& s, int parts, std::mt19937& random, bool striped = false) {
  cut k{.parts = parts};
  k.how.kind = int(random() % (striped ? 3 : 2));
  k.how.over = random() % 2 ? sp::scope::stream : sp::scope::document;
  if (parts % 2 == 0 && random() % 3 == 0) k.how.inner = 2, k.how.stride = parts % 4 == 0 && random() % 2 ? 2 : 1;
  k.shapes = random() % 2 ? sp::shapes::padded : sp::shapes::ragged;
  if (random() % 4 == 0) k.listed = drawn_runs(s.docs, parts, random);
  k.options.checks = random() % 4 == 0 ? 2 : 1;
  k.options.head_chunks = 1 + index_t(random() % 3);
  return k;
}
inline scene drawn_scene(std::mt19937& random) {
  scene s{drawn_documents(random, 24)};
  index_t const k_heads = 1 + index_t(random() % 3);
  s.shape = {0, k_heads, k_heads * (1 + index_t(random() % 2)), 3 + index_t(random() % 4), 1 + index_t(random() % 21)};
  s.normalise = random() % 2, s.initial = random() % 2, s.final = random() % 2;
  return s;
}

} // namespace linear_trial
