// One causal convolution over a sharded stream, on host memory or elsewhere, and what a naive float64 oracle makes of the whole stream.
// The oracle knows documents and nothing of ranks; slack rows and what is to be overwritten hold NaN.
#pragma once

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <sp/conv1d.hpp>
#include <sp/counting.hpp>

#include "support/places.hpp"
#include "support/sharding.hpp"

namespace conv1d_trial {

using sp::index_t;
using numbers = std::vector<double>;

inline std::size_t at(index_t i) { return static_cast<std::size_t>(i); }

struct scene {
  sp::documents docs;
  index_t width = 4, channels = 3;
  bool silu = false, bias = false, initial = false, final = false;

  index_t reach() const { return width - 1; }
  index_t states() const { return index_t(docs.size()) * reach(); }
};

/// Whole tensors, as one rank would hold them. dfinal is what all ranks together give.
struct inputs {
  numbers x, dout;         // (stream, channels)
  numbers weights, bias;   // (channels, width), (channels)
  numbers initial, dfinal; // (documents, width - 1, channels)
};
struct results {
  numbers out, dx;         // (stream, channels)
  numbers dweights, dbias; // (channels, width), (channels)
  numbers final, dinitial; // (documents, width - 1, channels)
};

/// Numbers that T holds exactly, in (-1, 1).
template <class T>
numbers drawn(index_t n, std::mt19937& random) {
  numbers v(at(n));
  for (double& x : v) x = double(T(float(int(random() % 2001) - 1000) / 1000.0F));
  return v;
}
template <class T>
inputs draw(scene const& s, std::mt19937& random) {
  index_t const rows = s.docs.length() * s.channels, states = s.states() * s.channels;
  inputs in;
  in.x = drawn<T>(rows, random), in.dout = drawn<T>(rows, random);
  in.weights = drawn<T>(s.channels * s.width, random), in.bias = drawn<T>(s.channels, random);
  in.initial = drawn<T>(states, random), in.dfinal = drawn<T>(states, random);
  return in;
}

// ---- the oracle --------------------------------------------------------------------------------------------------------------------

/// Entry `offset` of a document, counted from its first token; below 0 of its initial state. A place in `x` or in `initial`.
struct place {
  bool state = false;
  std::size_t index = 0;
};
inline place place_of(scene const& s, std::size_t d, index_t offset, index_t channel) {
  if (offset >= 0) return {false, at((s.docs[d].begin + offset) * s.channels + channel)};
  return {true, at((index_t(d) * s.reach() + s.reach() + offset) * s.channels + channel)};
}
inline double value(scene const& s, inputs const& in, place const& p) {
  return !p.state ? in.x[p.index] : s.initial ? in.initial[p.index] : 0;
}

inline results oracle(scene const& s, inputs const& in) {
  results r;
  r.out.assign(in.x.size(), 0), r.dx = r.out;
  r.dweights.assign(in.weights.size(), 0), r.dbias.assign(in.bias.size(), 0);
  r.final.assign(in.initial.size(), 0), r.dinitial = r.final;
  auto give = [&](place const& p, double gradient) { (p.state ? r.dinitial : r.dx)[p.index] += gradient; };
  for (std::size_t d = 0; d < s.docs.size(); ++d)
    for (index_t c = 0; c < s.channels; ++c) {
      for (index_t t = 0; t < s.docs[d].count; ++t) {
        double z = s.bias ? in.bias[at(c)] : 0;
        for (index_t j = 0; j < s.width; ++j)
          z += in.weights[at(c * s.width + j)] * value(s, in, place_of(s, d, t - s.width + 1 + j, c));
        double const sigma = 1 / (1 + std::exp(-z));
        std::size_t const here = place_of(s, d, t, c).index;
        r.out[here] = s.silu ? z * sigma : z;
        double const g = in.dout[here] * (s.silu ? sigma * (1 + z * (1 - sigma)) : 1);
        r.dbias[at(c)] += g;
        for (index_t j = 0; j < s.width; ++j) {
          place const p = place_of(s, d, t - s.width + 1 + j, c);
          r.dweights[at(c * s.width + j)] += g * value(s, in, p);
          give(p, g * in.weights[at(c * s.width + j)]);
        }
      }
      for (index_t k = 0; k < s.reach(); ++k) {
        place const p = place_of(s, d, s.docs[d].count - s.reach() + k, c);
        std::size_t const row = at((index_t(d) * s.reach() + k) * s.channels + c);
        r.final[row] = value(s, in, p);
        if (s.final) give(p, in.dfinal[row]);
      }
    }
  return r;
}

// ---- the same, sharded --------------------------------------------------------------------------------------------------------------

struct cut {
  int parts = 1;
  support::any_sharding how{};
  sp::shapes shapes = sp::shapes::ragged;
  int checks = 1;
  index_t heads = 1; ///< more than 1: x, out and gradients are (tokens, heads, dim)
};

inline constexpr double rubbish = std::numeric_limits<double>::quiet_NaN();

template <class T>
std::vector<T> as(numbers const& v) {
  std::vector<T> r;
  for (double x : v) r.push_back(T(x));
  return r;
}
template <class T>
numbers back(std::vector<T> const& v) {
  return numbers(v.begin(), v.end());
}

/// Rows of this rank, slack NaN; and the other way round, where slack must be 0.
inline numbers local(scene const& s, sp::batch const& b, numbers const& global) {
  numbers r(at(b.tokens() * s.channels), rubbish);
  sp::for_each_row(b, [&](sp::local_row const& row) {
    for (index_t c = 0; row.real && c < s.channels; ++c)
      r[at(row.row * s.channels + c)] = global[at(sp::source_position(b, row) * s.channels + c)];
  });
  return r;
}
inline bool put(scene const& s, sp::batch const& b, numbers const& mine, numbers& global) {
  bool zeros = true;
  sp::for_each_row(b, [&](sp::local_row const& row) {
    for (index_t c = 0; c < s.channels; ++c) {
      double const x = mine[at(row.row * s.channels + c)];
      if (row.real)
        global[at(sp::source_position(b, row) * s.channels + c)] = x;
      else
        zeros = zeros && x == 0;
    }
  });
  return zeros;
}

/// What one rank has: its rows, its copy of final states, its shares.
struct part {
  numbers out, dx, dweights, dbias, final, dinitial;
  index_t forward_bytes = 0, backward_bytes = 0;
};

/// The ranks as one: rows at their places, shares added up; `agreed` says that slack is 0 and final states are the same everywhere.
inline results joined(scene const& s, cut const& k, std::vector<part> const& parts, bool& agreed) {
  results r;
  r.out.assign(at(s.docs.length() * s.channels), 0), r.dx = r.out;
  r.dweights.assign(at(s.channels * s.width), 0), r.dbias.assign(at(s.channels), 0);
  r.dinitial.assign(at(s.states() * s.channels), 0), r.final = parts[0].final;
  auto add = [](numbers& sum, numbers const& share) {
    for (std::size_t i = 0; i < share.size(); ++i) sum[i] += share[i];
  };
  agreed = true;
  for (int p = 0; p < k.parts; ++p) {
    part const& mine = parts[at(p)];
    sp::batch const b(s.docs, k.how, p, k.parts, {k.shapes});
    bool const zeros = put(s, b, mine.out, r.out) && put(s, b, mine.dx, r.dx);
    add(r.dweights, mine.dweights), add(r.dbias, mine.dbias), add(r.dinitial, mine.dinitial);
    agreed = agreed && zeros && mine.final == r.final;
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

/// Forward and backward on one rank with all operands that the scene has.
template <class T, class Place>
part run_rank(Place& here, scene const& s, cut const& k, inputs const& in) {
  using A = sp::accumulate_t<T>;
  using M = typename Place::ranks::memory_type;
  auto const& comm = here.comm;
  auto const ctx = here.context();
  sp::ledger ledger;
  sp::counting const counted(comm, ledger);
  sp::batch const b(s.docs, k.how, comm, {k.shapes});
  sp::causal_conv1d conv{
      counted, {.width = s.width, .activation = s.silu ? sp::activation::silu : sp::activation::none, .checks = k.checks}};
  index_t const heads = k.heads, dim = s.channels / heads, n = b.tokens(), docs = index_t(s.docs.size());
  typename Place::template tensor<T, 3> x(here, {n, heads, dim}, as<T>(local(s, b, in.x))),
      dout(here, {n, heads, dim}, as<T>(local(s, b, in.dout))),
      out(here, {n, heads, dim}, std::vector<T>(at(n * s.channels), T(rubbish))),
      dx(here, {n, heads, dim}, std::vector<T>(at(n * s.channels), T(rubbish))),
      initial(here, {docs, s.reach(), s.channels}, as<T>(in.initial)),
      final(here, {docs, s.reach(), s.channels}, std::vector<T>(in.initial.size(), T(rubbish)));
  typename Place::template tensor<T, 2> weights(here, {s.channels, s.width}, as<T>(in.weights));
  typename Place::template tensor<T, 1> bias(here, {s.channels}, as<T>(in.bias));
  typename Place::template tensor<A, 2> dweights(here, {s.channels, s.width}, std::vector<A>(in.weights.size(), A(rubbish)));
  typename Place::template tensor<A, 1> dbias(here, {s.channels}, std::vector<A>(in.bias.size(), A(rubbish)));
  typename Place::template tensor<A, 3> dinitial(here, {docs, s.reach(), s.channels},
                                                 std::vector<A>(in.initial.size(), A(rubbish))),
      dfinal(here, {docs, s.reach(), s.channels}, as<A>(share_of(in.dfinal, comm.rank(), k.parts)));
  part mine;
  {
    auto const p = conv.prepare(b, ctx);
    ledger.clear();
    sp::conv1d_operands<T, M> o{.x = *x, .weights = *weights, .out = *out};
    sp::conv1d_gradients<T, M> g{.x = *x, .weights = *weights, .dout = *dout, .dx = *dx, .dweights = *dweights, .dbias = *dbias};
    if (s.bias) o.bias = *bias, g.bias = *bias;
    if (s.initial) o.initial_state = *initial, g.initial_state = *initial, g.dinitial_state = *dinitial;
    if (s.final) o.final_state = *final, g.dfinal_state = *dfinal;
    auto saved = conv.forward(p, ctx, o);
    mine.forward_bytes = ledger.of("causal_conv1d").bytes_sent;
    conv.backward(p, ctx, std::move(saved), g);
    mine.backward_bytes = ledger.of("causal_conv1d").bytes_sent - mine.forward_bytes;
  }
  mine.out = back(out.download()), mine.dx = back(dx.download());
  mine.dweights = back(dweights.download()), mine.dbias = back(dbias.download());
  if (s.final) mine.final = back(final.download());
  if (s.initial) mine.dinitial = back(dinitial.download());
  return mine;
}

template <class T, class Place = support::host_place>
std::vector<part> run(scene const& s, cut const& k, inputs const& in, unsigned seed = 1) {
  return support::on_all_ranks<Place>(
      k.parts, [&](Place& here) { return run_rank<T>(here, s, k, in); }, support::interleaving(seed % 3), seed);
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
  auto worst = [](auto... e) { return std::max({e...}); };
  return worst(error(a.out, b.out), error(a.dx, b.dx), error(a.dweights, b.dweights), error(a.dbias, b.dbias),
               s.final ? error(a.final, b.final) : 0, s.initial ? error(a.dinitial, b.dinitial) : 0);
}

} // namespace conv1d_trial
