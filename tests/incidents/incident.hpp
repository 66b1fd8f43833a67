// One attention problem over thread ranks against the naive oracle: documents, heads, a mask with its definition.
// Tensors go through split and gather, so that the whole path of a trainer is under test, gradients always included.
#pragma once

#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

#include "support/attention_problem.hpp"
#include "support/sharding.hpp"

namespace incidents {

using sp::index_t;
using support::any_sharding;
using support::attention_results;
using support::rank_tensors;
using support::tensor;

/// What a trainer may choose for this many ranks; the last one is the order of USP with Ulysses over pairs of ranks.
inline std::array<any_sharding, 4> all_shardings(int parts) {
  return {{{any_sharding::contiguous, sp::scope::stream},
           {any_sharding::zigzag},
           {any_sharding::striped},
           {any_sharding::zigzag, sp::scope::document, parts % 2 == 0 ? 2 : 1}}};
}
inline any_sharding const zigzag{any_sharding::zigzag};

/// sees(document, q offset, k offset) is the mask's definition.
using predicate = std::function<bool(std::size_t, index_t, index_t)>;
inline bool below(std::size_t, index_t q, index_t k) { return k <= q; }

struct incident : support::attention_problem {
  predicate sees = below;

  incident(sp::documents docs, index_t hq, index_t hk) : incident(docs, docs, hq, hk) {}
  incident(sp::documents const& qd, sp::documents const& kd, index_t hq, index_t hk)
      : attention_problem(qd, kd, {hq, hk, 3, 2}, sp::causal(), unsigned(qd.length() * 31 + hq * 7 + hk)) {}

  attention_results truth() const {
    auto r = oracle_of(sees).backward(dout);
    return {r.out, r.dq, r.dk, r.dv};
  }
};

/// Largest relative error of the four tensors.
inline double error(attention_results const& a, attention_results const& b) {
  double worst = 0;
  auto take = [&](std::vector<double> const& x, std::vector<double> const& y) {
    double e = support::relative_error(x, y);
    worst = std::isnan(e) || worst < e ? e : worst;
  };
  take(a.out, b.out);
  take(a.dq, b.dq);
  take(a.dk, b.dk);
  take(a.dv, b.dv);
  return worst;
}

/// The tensors of all ranks in stream order (positions in no document 0), and the number of slack rows that are not zero.
struct outcome {
  attention_results found;
  index_t dirty_slack = 0;
};

inline index_t dirty(sp::batch const& b, sp::view<double, 3> const& x) {
  index_t n = 0;
  sp::for_each_row(b, [&](sp::local_row const& r) {
    if (!r.real)
      for (index_t h = 0; h < x.extent(1); ++h)
        for (index_t c = 0; c < x.extent(2); ++c) n += x(r.row, h, c) == 0 ? 0 : 1; // NaN counts
  });
  return n;
}

struct how_to_run {
  any_sharding q_sharding{}, k_sharding{};
  sp::shapes shapes = sp::shapes::ragged;
  double slack = 0;
};

/// Forward and backward over `parts` thread ranks; make(communicator) gives the attention object.
template <class Make>
outcome run(incident const& s, int parts, how_to_run const& how, Make const& make) {
  outcome result;
  std::atomic<index_t> bad{0};
  sp::threads::run(parts, [&](sp::threads const& c) {
    sp::batch qb(s.q_docs, how.q_sharding, c, {how.shapes}), kb(s.k_docs, how.k_sharding, c, {how.shapes});
    rank_tensors t(s, qb, kb, how.slack);
    auto attention = make(c);
    sp::pool scratch, kept;
    t.both(attention, attention.prepare(qb, kb), {scratch, kept});
    bad += dirty(qb, t.out) + dirty(qb, t.dq) + dirty(kb, t.dk) + dirty(kb, t.dv);
    attention_results all = support::gathered(c, qb, kb, t);
    if (c.rank() == 0) result.found = std::move(all);
  });
  result.dirty_slack = bad;
  return result;
}

inline auto ring(sp::mask const& mask, sp::schedule how) {
  return [&mask, how](sp::threads const& c) { return sp::ring_attention(c, sp::reference{}, {.mask = mask, .schedule = how}); };
}
inline auto ulysses(sp::mask const& mask) {
  return [&mask](sp::threads const& c) { return sp::ulysses_attention(c, sp::reference{}, {.mask = mask}); };
}

/// The worst error over Ulysses and the three schedules of the ring; dirty slack counts as infinite.
inline double worst_error(incident const& s, int parts, how_to_run const& how) {
  attention_results const want = s.truth();
  double worst = 0;
  auto take = [&](outcome const& o) {
    double e = o.dirty_slack ? std::numeric_limits<double>::infinity() : error(o.found, want);
    worst = std::isnan(e) || worst < e ? e : worst;
  };
  for (auto schedule : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull})
    take(run(s, parts, how, ring(s.mask, schedule)));
  take(run(s, parts, how, ulysses(s.mask)));
  return worst;
}
inline double worst_error(incident const& s, int parts, any_sharding const& how = zigzag) {
  return worst_error(s, parts, how_to_run{how, how});
}

/// What double agrees to (RELIABILITY: 1e-12 normwise).
inline constexpr double bound = 1e-12;

} // namespace incidents
