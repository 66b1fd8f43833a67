// One rank's arguments of an attention step as values, so that a test can change one of them on one rank.
// Ring, Ulysses and USP of one kernel; what a rank threw comes back as text and code.
#pragma once

#include <cstring>
#include <functional>
#include <optional>
#include <vector>

#include <sp/batch.hpp>
#include <sp/reference.hpp>
#include <sp/threads.hpp>
#include <sp/usp.hpp>

#include "support/attention_tensors.hpp"

namespace checks {

using sp::errc;
using sp::index_t;
using kernel = sp::reference<sp::softcap, sp::dropout>;

enum class kind { ring, ulysses, usp };
constexpr char const* name_of(kind k) { return k == kind::ring ? "ring" : k == kind::ulysses ? "ulysses" : "usp"; }

struct arguments {
  index_t q_heads = 4, kv_heads = 2, dim = 4, value_dim = 4;
  sp::mask mask = sp::causal();
  std::vector<index_t> cu{0, 9, 24};
  bool zigzag = true;
  std::uint64_t tokens = 7;
  double scale = 0.5;
  sp::schedule schedule = sp::schedule::rotate;
  index_t head_chunks = 1;
  sp::keep keep = sp::keep::heads;
  index_t ulysses_chunks = 1;
  bool sinks = false, accumulate = false, single = false; ///< single: float instead of double
  double cap = 30, dropped = 0.25;
  std::uint64_t seed = 3;
  int level = 2;

  sp::attention_options options() const { return {mask, scale, schedule, head_chunks, level}; }
  kernel make_kernel() const { return {sp::softcap{cap}, sp::dropout{dropped}}; }
  sp::attention_shape shape() const { return {q_heads, kv_heads, dim, value_dim}; }
  template <class Ranks>
  sp::batch batch(Ranks const& ranks, int ulysses) const {
    auto make = [&](auto how) {
      return sp::batch(sp::documents::packed(cu), sp::nested{how, ulysses}, ranks, {.token_digest = tokens});
    };
    return zigzag ? make(sp::zigzag{}) : make(sp::contiguous{});
  }
};

/// The ranks of one sequence and how a kind uses them; communicators are split once.
template <class Comm>
struct place {
  Comm all;
  sp::mesh mesh;
  decltype(std::declval<sp::mesh const&>().ring(std::declval<Comm const&>())) ring;
  decltype(std::declval<sp::mesh const&>().ulysses(std::declval<Comm const&>())) ulysses;

  place(kind k, Comm const& comm)
      : all(comm), mesh{sp::axis::ring{k == kind::ulysses ? 1
                                       : k == kind::ring  ? comm.size()
                                                          : comm.size() / 2},
                        sp::axis::ulysses{k == kind::ulysses ? comm.size()
                                          : k == kind::ring  ? 1
                                                             : 2}},
        ring(mesh.ring(comm)), ulysses(mesh.ulysses(comm)) {}
  /// f(object): a ring, or Ulysses over rings that may have one rank.
  template <class F>
  void with(kind k, arguments const& a, F&& f) const {
    if (k == kind::ring)
      f(sp::ring_attention{all, a.make_kernel(), a.options()});
    else
      f(sp::ulysses_attention{ulysses, sp::ring_attention{ring, a.make_kernel(), a.options()}, {a.keep, a.ulysses_chunks}});
  }
  sp::batch batch(arguments const& a) const { return a.batch(all, ulysses.size()); }
};

/// The tensors of one rank with the sinks and options of its arguments.
template <class T>
struct tensors : support::attention_tensors<T> {
  using base = support::attention_tensors<T>;
  std::vector<sp::accumulate_t<T>> sinks, dsinks;
  sp::attention_extras<T> extras;

  tensors(sp::batch const& b, arguments const& a)
      : base(b.tokens(), b.tokens(), a.shape(), support::uniform_values(unsigned(17 + b.part()))) {
    extras.accumulate = a.accumulate;
    extras.random = {a.seed, 1};
    if (!a.sinks) return;
    sinks.assign(std::size_t(a.q_heads), 0.5);
    dsinks.assign(std::size_t(a.q_heads), 0);
    extras.sinks = sp::view<sp::accumulate_t<T> const, 1>(sinks.data(), {a.q_heads});
    extras.dsinks = sp::view<sp::accumulate_t<T>, 1>(dsinks.data(), {a.q_heads});
  }

  template <class Object, class Prepared>
  auto forward(Object const& o, Prepared const& p, sp::context<> const& c) {
    return base::forward(o, p, c, extras);
  }
  template <class Object, class Prepared, class Saved>
  void backward(Object const& o, Prepared const& p, sp::context<> const& c, Saved&& s) {
    base::backward(o, p, c, std::forward<Saved>(s), extras);
  }
  /// out, dq, dk, dv, dsinks as bytes.
  std::vector<unsigned char> results() const {
    std::vector<unsigned char> r;
    auto take = [&](auto const& m) {
      auto const* p = reinterpret_cast<unsigned char const*>(m.data());
      r.insert(r.end(), p, p + m.size() * sizeof(m[0]));
    };
    take(base::results());
    take(dsinks);
    return r;
  }
};

/// What a call threw; nothing: it returned.
struct outcome {
  std::optional<sp::error_info> failure;
  bool is(errc code) const { return failure && failure->code == code; }
  bool says(std::string const& text) const { return failure && failure->problem.find(text) != std::string::npos; }
  std::string text() const { return failure ? std::string(sp::name(failure->code)) + ": " + failure->problem : "nothing"; }
};
template <class F>
outcome outcome_of(F&& f) {
  try {
    f();
  } catch (sp::error const& e) {
    return {e.info()};
  }
  return {};
}

} // namespace checks
