// A recipe: one differential case as plain numbers, written as one line of text that parses back: `case P=3 docs=0,1,9 run=rotate`.
// What a line leaves out has its default; what it says is checked, so a line from anywhere is either a valid case or an error.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace fuzz {

using number = std::int64_t;

/// Ways to compute the same attention; a recipe runs several and compares them.
enum strategy { rotate, cast, pull, pass_q, ulysses, usp, strategies };
inline constexpr std::string_view strategy_names[] = {"rotate", "cast", "pull", "pass_q", "ulysses", "usp"};
inline constexpr std::string_view type_names[] = {"double", "float", "bf16", "fp16"};
inline constexpr std::string_view mask_names[] = {"causal", "full", "window", "prefix", "spans", "slices", "all"};
inline constexpr std::string_view shard_names[] = {"contiguous", "zigzag", "striped"};
inline constexpr std::string_view object_names[] = {"attention", "linear", "conv"};
inline constexpr std::string_view way_names[] = {"automatic", "heads", "state"};
enum { of_attention, of_linear, of_conv };
enum { masks_causal, masks_full, masks_window, masks_prefix, masks_spans, masks_slices, masks_all };

struct recipe {
  number seed = 1;                     ///< of the values
  number type = 0;                     ///< index into type_names
  std::vector<number> run{rotate};     ///< strategies
  number ranks = 1, degree = 1;        ///< degree: ulysses ranks of usp, a divisor of ranks
  number inner = rotate;               ///< schedule of usp's ring
  number groups = 1;                   ///< head chunks of cast and pass_q
  bool strided = false;                ///< usp: neighbours are in the same ring
  bool keep_output = false;            ///< ulysses keeps its output, not its heads
  std::vector<number> docs{1}, keys{}; ///< lengths; -n is a gap of n positions. No keys: self attention
  number mask = 0, a = 0, b = 0, c = 0;
  bool end = false; ///< the last query stands on the last key
  number shard = 0;
  bool stream = false, nested = false, padded = false;
  bool apart = false; ///< keys of other documents are cut by a sharding of their own; else as the queries
  number key_shard = 0;
  bool key_stream = false, key_nested = false, key_padded = false;
  number room = 0; ///< positions behind each document that are spread with it
  number q_heads = 1, kv_heads = 1, dim = 1, value_dim = 1;
  double scale = 0, loud = 1, softcap = 0, dropout = 0;
  bool alibi = false, sinks = false, accumulate = false, brief = false; ///< brief: calls without prepare()
  double start = 1, sink_size = 0.5; ///< what gradients hold that are added to; how large sinks are
  number checks = 1;                 ///< the check level
  number order = 0;                  ///< memory orders of the tensors
  number object = of_attention;      ///< the next lines are of linear attention and causal_conv1d: tests/linear/test_fuzz.cpp
  number way = 0;                    ///< index into way_names, of linear attention
  number width = 1;                  ///< taps of a convolution
  bool raw = false;                  ///< q and k are not normalised
  bool silu = false, bias = false;
  bool initial = false, final = false; ///< states of documents are given; are asked for

  friend bool operator==(recipe const&, recipe const&) = default;
};

namespace detail {

/// A number with a name for each of its values.
struct choice {
  number& value;
  std::span<std::string_view const> names;
};
struct choices {
  std::vector<number>& values;
  std::span<std::string_view const> names;
};

/// Every field under the name it has in a line.
template <class F>
void for_each_field(recipe& r, F&& f) {
  f("seed", r.seed), f("type", choice{r.type, type_names}), f("run", choices{r.run, strategy_names});
  f("P", r.ranks), f("U", r.degree), f("strided", r.strided), f("inner", choice{r.inner, strategy_names});
  f("groups", r.groups), f("keep_output", r.keep_output), f("docs", r.docs), f("keys", r.keys);
  f("mask", choice{r.mask, mask_names}), f("a", r.a), f("b", r.b), f("c", r.c), f("end", r.end);
  f("shard", choice{r.shard, shard_names}), f("stream", r.stream), f("nested", r.nested), f("padded", r.padded);
  f("apart", r.apart), f("kshard", choice{r.key_shard, shard_names}), f("kstream", r.key_stream);
  f("knested", r.key_nested), f("kpadded", r.key_padded), f("room", r.room);
  f("hq", r.q_heads), f("hkv", r.kv_heads), f("dim", r.dim), f("vdim", r.value_dim);
  f("scale", r.scale), f("loud", r.loud), f("softcap", r.softcap), f("dropout", r.dropout), f("alibi", r.alibi);
  f("sinks", r.sinks), f("accumulate", r.accumulate), f("brief", r.brief), f("start", r.start);
  f("sink", r.sink_size), f("checks", r.checks), f("order", r.order);
  f("object", choice{r.object, object_names}), f("way", choice{r.way, way_names}), f("width", r.width), f("raw", r.raw);
  f("silu", r.silu), f("bias", r.bias), f("initial", r.initial), f("final", r.final);
}

template <class N>
std::string text(N value) {
  char buffer[40];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}
inline std::string text(bool value) { return value ? "1" : "0"; }
inline std::string text(choice const& c) { return std::string(c.names[std::size_t(c.value)]); }
inline std::string text(std::vector<number> const& list) {
  std::string s;
  for (number n : list) s += (s.empty() ? "" : ",") + text(n);
  return s;
}
inline std::string text(choices const& c) {
  std::string s;
  for (number n : c.values) s += (s.empty() ? "" : ",") + std::string(c.names[std::size_t(n)]);
  return s;
}

[[noreturn]] inline void refuse(std::string_view what, std::string_view text) {
  throw std::invalid_argument("case line: " + std::string(what) + " '" + std::string(text) + "'");
}

template <class N>
void read(std::string_view s, N& to) {
  auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), to);
  if (error != std::errc() || end != s.data() + s.size()) refuse("not a number:", s);
}
inline void read(std::string_view s, bool& to) {
  if (s != "0" && s != "1") refuse("neither 0 nor 1:", s);
  to = s == "1";
}
inline void read(std::string_view s, choice to) {
  for (to.value = 0; to.value < number(to.names.size()); ++to.value)
    if (to.names[std::size_t(to.value)] == s) return;
  to.value = 0;
  refuse("unknown name", s);
}
template <class F>
void for_each_entry(std::string_view s, F&& f) {
  while (!s.empty()) {
    std::size_t n = s.find(',');
    f(s.substr(0, n));
    s = n == s.npos ? std::string_view{} : s.substr(n + 1);
  }
}
inline void read(std::string_view s, std::vector<number>& to) {
  to.clear();
  for_each_entry(s, [&](std::string_view e) { read(e, to.emplace_back()); });
}
inline void read(std::string_view s, choices to) {
  to.values.clear();
  for_each_entry(s, [&](std::string_view e) { read(e, choice{to.values.emplace_back(), to.names}); });
}

} // namespace detail

/// How many documents a list of lengths and gaps holds, and how many positions.
inline number documents_in(std::vector<number> const& list) {
  number n = 0;
  for (number x : list) n += x >= 0;
  return n;
}
inline number positions_in(std::vector<number> const& list) {
  number n = 0;
  for (number x : list) n += x < 0 ? -x : x;
  return n;
}

/// Why a recipe is no case; empty if it is one. Sizes are bounded, so that a line from outside cannot ask for the moon.
inline std::string objection(recipe const& r) {
  auto in = [](auto x, auto lo, auto hi) { return lo <= x && x <= hi; }; // false for NaN
  for (auto const* list : {&r.docs, &r.keys}) {
    if (list->size() > 64) return "more than 64 documents and gaps";
    for (number n : *list)
      if (!in(n, -2000, 2000)) return "a document or gap of more than 2000 positions";
    if (positions_in(*list) > 4000) return "more than 4000 positions";
  }
  if (!r.keys.empty() && documents_in(r.keys) != documents_in(r.docs)) return "docs and keys differ in number";
  if (!in(r.ranks, 1, 8) || !in(r.degree, 1, r.ranks) || r.ranks % r.degree != 0) return "P is 1 to 8, and U divides it";
  if (r.run.empty() || r.run.size() > strategies) return "run names one to six strategies";
  if (!in(r.inner, 0, 3) || !in(r.groups, 1, 8)) return "inner is rotate, cast, pull or pass_q; groups is 1 to 8";
  if (!in(r.kv_heads, 1, 64) || !in(r.q_heads, 1, 64) || r.q_heads % r.kv_heads != 0) return "hkv divides hq, both 1 to 64";
  if (!in(r.dim, 1, 256) || !in(r.value_dim, 1, 256)) return "dim and vdim are 1 to 256";
  for (number x : {r.a, r.b, r.c})
    if (!in(x, 0, 4000)) return "a, b and c are 0 to 4000";
  if (r.brief && !r.keys.empty()) return "brief calls are for self attention";
  if (!in(r.room, 0, 8) || !in(r.checks, 0, 3)) return "room is 0 to 8, checks 0 to 3";
  if (r.apart && r.keys.empty()) return "only keys of their own are cut apart";
  if (!in(r.start, -1, 1) || !in(r.sink_size, 0, 1e4)) return "start is -1 to 1, sink 0 to 10000";
  if (!in(r.scale, -1e3, 1e3) || !in(r.loud, 0, 1e4) || !in(r.softcap, 0, 1e4) || !in(r.dropout, 0, 0.99))
    return "a factor is out of range";
  if (r.type > 0 && (r.softcap > 0 || r.dropout > 0 || r.alibi)) return "softcap, dropout and alibi are for double";
  if (r.type > 1 && r.loud > 30) return "loud is at most 30 in 16 bits";
  if (!in(r.order, 0, 35)) return "order is 0 to 35";
  if (!in(r.width, 1, 64)) return "width is 1 to 64";
  if (r.object == of_linear && r.way == 2 && r.shard == 2) return "runs with a stride have no map of the state";
  return {};
}

/// `case name=value ...`, without what has its default.
inline std::string line_of(recipe r) {
  recipe usual;
  std::vector<std::string> defaults;
  detail::for_each_field(usual, [&](char const*, auto&& field) { defaults.push_back(detail::text(field)); });
  std::string line = "case";
  std::size_t i = 0;
  detail::for_each_field(r, [&](char const* name, auto&& field) {
    std::string value = detail::text(field);
    if (value != defaults[i++]) line += " " + std::string(name) + "=" + value;
  });
  return line;
}

/// The recipe of a line; std::invalid_argument says what is wrong with it.
inline recipe parse(std::string_view line) {
  auto word = [&] {
    while (!line.empty() && (line.front() == ' ' || line.front() == '\t' || line.front() == '\r')) line.remove_prefix(1);
    std::size_t n = std::min(line.find_first_of(" \t\r"), line.size());
    std::string_view w = line.substr(0, n);
    line.remove_prefix(n);
    return w;
  };
  if (word() != "case") throw std::invalid_argument("case line: it does not begin with 'case'");
  recipe r;
  for (std::string_view w = word(); !w.empty(); w = word()) {
    std::size_t at = w.find('=');
    if (at == w.npos) detail::refuse("no value in", w);
    bool known = false;
    detail::for_each_field(r, [&](char const* name, auto&& field) {
      if (w.substr(0, at) != name) return;
      known = true;
      detail::read(w.substr(at + 1), field);
    });
    if (!known) detail::refuse("unknown name in", w);
  }
  if (std::string wrong = objection(r); !wrong.empty()) throw std::invalid_argument("case line: " + wrong);
  return r;
}

} // namespace fuzz
