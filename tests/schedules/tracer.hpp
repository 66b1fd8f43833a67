// A schedule as data: the real attention objects of all ranks, run one after the other with a recorder for a communicator and a kernel that
// only notes the pairs it is asked for. Every number in a tensor names its token and head, so a row at the wrong place is seen.
#pragma once

#include <functional>

#include <sp/usp.hpp>

#include "schedules/progress.hpp"
#include "support/attention_tensors.hpp"

namespace schedules {

/// Who may see whom, from the definition.
struct rule {
  sp::mask mask;
  std::function<bool(index_t q, index_t k)> sees; ///< inside one document
};
inline rule causal() {
  return {sp::causal(), [](index_t q, index_t k) { return k <= q; }};
}
inline rule full() {
  return {sp::full(), [](index_t, index_t) { return true; }};
}
inline rule window(index_t left, index_t right) {
  return {sp::window(left, right), [=](index_t q, index_t k) { return q - left <= k && k <= q + right; }};
}

/// What the values of a scene mean, and how often each (head, query, key) has been computed.
class ground {
public:
  enum tensor { q, k, v, out, lse, dout };
  index_t tokens, q_heads, kv_heads;

  ground(std::vector<index_t> lengths, index_t hq, index_t hk, rule const& r) : tokens(0), q_heads(hq), kv_heads(hk) {
    std::vector<index_t> document;
    for (std::size_t d = 0; d < lengths.size(); ++d) document.insert(document.end(), std::size_t(lengths[d]), index_t(d));
    tokens = index_t(document.size());
    sees_.resize(std::size_t(tokens * tokens));
    for (index_t i = 0; i < tokens; ++i)
      for (index_t j = 0; j < tokens; ++j)
        sees_[std::size_t(i * tokens + j)] = document[std::size_t(i)] == document[std::size_t(j)] && r.sees(i, j);
  }
  bool sees(index_t i, index_t j) const { return sees_[std::size_t(i * tokens + j)]; }

  /// The number that stands for a row of a tensor; exact in double, and different for all. That of an lse is so large that merging equal
  /// ones rounds to it again.
  double id(tensor t, index_t position, index_t head) const {
    return double((index_t(t) * 4096 + position) * 4096 + head + 1) * (t == lse ? 0x1p40 : 1);
  }
  /// What one pair adds to the gradients: whole numbers that differ from pair to pair.
  static double weight(index_t position_q, index_t position_k, index_t head) {
    return double(1 + (position_q * 131 + position_k * 31 + head * 7) % 61);
  }

  struct tally {
    std::vector<std::uint8_t> times;
    void count(ground const& g, index_t h, index_t i, index_t j) {
      auto& n = times[std::size_t((h * g.tokens + i) * g.tokens + j)];
      n = std::uint8_t(n + (n < 255));
    }
  };
  tally forward, rows, keys; ///< forward; backward for dq; backward for dk and dv
  bool strict = false;       ///< the last pass: count, and complain about wrong numbers
  std::vector<std::string> complaints;

  void begin_pass(bool last) {
    strict = last;
    for (tally* t : {&forward, &rows, &keys}) t->times.assign(std::size_t(q_heads * tokens * tokens), 0);
    complaints.clear();
  }
  void expect(double found, double wanted, char const* what, index_t position, index_t head) {
    if (!strict || found == wanted || complaints.size() > 20) return;
    complaints.push_back(std::string(what) + " of token " + std::to_string(position) + ", head " + std::to_string(head) + " is " +
                         std::to_string(found) + ", expected " + std::to_string(wanted));
  }
  /// Every pair the rule allows was computed once, and nothing else.
  std::string uncovered(tally const& t, char const* what) const {
    for (index_t h = 0; h < q_heads; ++h)
      for (index_t i = 0; i < tokens; ++i)
        for (index_t j = 0; j < tokens; ++j)
          if (int n = t.times[std::size_t((h * tokens + i) * tokens + j)]; n != int(sees(i, j)))
            return std::string(what) + ": head " + std::to_string(h) + ", query " + std::to_string(i) + ", key " +
                   std::to_string(j) + " is computed " + std::to_string(n) + " times";
    return {};
  }

private:
  std::vector<bool> sees_;
};

/// An attention backend that computes nothing: it checks that the rows it is given are those the blocks speak of, and notes the pairs.
class tracer {
public:
  using memory_type = sp::host_memory;
  using plan = std::vector<sp::block>;
  using saved = sp::nothing;
  explicit tracer(ground& g) : ground_(&g) {}

  plan prepare(sp::problem const& p) const { return sp::blocks(p.q, p.k, p.mask); }

  template <class T>
  saved forward(plan const& blocks, sp::allocator&, sp::call_params const& n, sp::view<T const, 3> q,
                std::span<sp::kv_views<T> const> keys, sp::attention_state<T> state) const {
    for (sp::block const& b : blocks) {
      auto const& part = keys[std::size_t(b.k_tensor)];
      check_keys(b, n.heads, part.k, part.v);
      for (index_t h = 0; h < n.heads.q_count; ++h)
        for (index_t i = 0; i < b.rows; ++i) {
          index_t const at = b.q_pos + b.q_stride * i, head = n.heads.q_head(h);
          ground_->expect(q(b.q + i, h, 0), ground_->id(ground::q, at, head), "q", at, head);
          bool any = false;
          for_each_key(b, i, [&](index_t, index_t k_at) { any = true, count(ground_->forward, head, at, k_at); });
          if (!any) continue;
          state.out(b.q + i, h, 0) = ground_->id(ground::out, at, head);
          state.lse(b.q + i, h) = ground_->id(ground::lse, at, head);
        }
    }
    return {};
  }

  template <class T>
  void backward(plan const& blocks, sp::allocator&, sp::call_params const& n, std::span<sp::query_grad<T> const> rows,
                std::span<sp::key_grad<T> const> keys, saved const&) const {
    for (sp::block const& b : blocks) {
      auto const& r = rows[std::size_t(b.q_tensor)];
      auto const& c = keys[std::size_t(b.k_tensor)];
      check_keys(b, n.heads, c.k, c.v);
      for (index_t h = 0; h < n.heads.q_count; ++h)
        for (index_t i = 0; i < b.rows; ++i) {
          index_t const at = b.q_pos + b.q_stride * i, row = b.q + i, kv = n.heads.kv_of(h);
          check_row(r, row, h, at, n.heads.q_head(h));
          for_each_key(b, i, [&](index_t j, index_t k_at) {
            double const w = ground::weight(at, k_at, n.heads.q_head(h));
            if (r.dq.data) r.dq(row, h, 0) += w, count(ground_->rows, n.heads.q_head(h), at, k_at);
            if (!c.dk.data) return;
            c.dk(b.k + j, kv, 0) += w;
            c.dv(b.k + j, kv, 0) += 2 * w;
            count(ground_->keys, n.heads.q_head(h), at, k_at);
          });
        }
    }
  }
  template <class T>
  index_t scratch_bytes(plan const&, sp::heads const&, index_t, index_t) const {
    return 0;
  }

private:
  template <class F>
  static void for_each_key(sp::block const& b, index_t i, F&& f) {
    for (index_t j = 0; j < b.keys; ++j)
      if (b.sees(i, j)) f(j, b.k_pos + b.k_stride * j);
  }
  void count(ground::tally& t, index_t head, index_t q, index_t k) const {
    if (ground_->strict) t.count(*ground_, head, q, k);
  }
  template <class K>
  void check_keys(sp::block const& b, sp::heads const& on, K const& k, K const& v) const {
    for (index_t h = 0; h < on.kv_count; ++h)
      for (index_t j = 0; j < b.keys; ++j) {
        index_t const at = b.k_pos + b.k_stride * j, head = on.kv_begin + h;
        ground_->expect(k(b.k + j, h, 0), ground_->id(ground::k, at, head), "k", at, head);
        ground_->expect(v(b.k + j, h, 0), ground_->id(ground::v, at, head), "v", at, head);
      }
  }
  template <class R>
  void check_row(R const& r, index_t row, index_t h, index_t at, index_t head) const {
    ground_->expect(r.q(row, h, 0), ground_->id(ground::q, at, head), "q", at, head);
    ground_->expect(r.out(row, h, 0), ground_->id(ground::out, at, head), "out", at, head);
    ground_->expect(r.dout(row, h, 0), ground_->id(ground::dout, at, head), "dout", at, head);
    ground_->expect(r.lse(row, h), ground_->id(ground::lse, at, head), "lse", at, head);
    ground_->expect(r.delta(row, h), r.out(row, h, 0) * r.dout(row, h, 0), "delta", at, head);
  }
  ground* ground_;
};
static_assert(sp::attention_backend<tracer, double>);

/// Stream positions of a rank's rows.
inline std::vector<index_t> positions_of(sp::batch const& b) {
  std::vector<index_t> list;
  for (sp::run const& r : b.runs())
    for (index_t i = 0; i < r.count; ++i) list.push_back(r.at(i));
  return list;
}

/// Tensors of one rank, (tokens, heads, 1), every number naming its place; results are poisoned.
struct rank_tensors : support::attention_tensors<double> {
  std::vector<index_t> positions; ///< of the rows

  rank_tensors(ground const& g, sp::batch const& b) : rank_tensors(g, positions_of(b)) {}

  /// Outputs and gradients at home are what the definition says.
  void check(ground& g) const {
    index_t const group = g.q_heads / g.kv_heads;
    for (index_t i = 0; i < index_t(positions.size()); ++i) {
      index_t const p = positions[std::size_t(i)];
      for (index_t h = 0; h < g.q_heads; ++h) {
        double sum = 0;
        for (index_t j = 0; j < g.tokens; ++j) sum += g.sees(p, j) ? ground::weight(p, j, h) : 0;
        g.expect(out(i, h, 0), g.id(ground::out, p, h), "out at home", p, h);
        g.expect(dq(i, h, 0), sum, "dq at home", p, h);
      }
      for (index_t h = 0; h < g.kv_heads; ++h) {
        double sum = 0;
        for (index_t s = h * group; s < (h + 1) * group; ++s)
          for (index_t j = 0; j < g.tokens; ++j) sum += g.sees(j, p) ? ground::weight(j, p, s) : 0;
        g.expect(dk(i, h, 0), sum, "dk at home", p, h);
        g.expect(dv(i, h, 0), 2 * sum, "dv at home", p, h);
      }
    }
  }

private:
  rank_tensors(ground const& g, std::vector<index_t> const& at)
      : attention_tensors(index_t(at.size()), index_t(at.size()), {g.q_heads, g.kv_heads, 1, 1},
                          [&](support::operand name, index_t row, index_t head) {
                            using support::operand;
                            index_t const position = at[std::size_t(row)];
                            if (name == operand::q) return g.id(ground::q, position, head);
                            if (name == operand::k) return g.id(ground::k, position, head);
                            if (name == operand::v) return g.id(ground::v, position, head);
                            if (name == operand::dout) return g.id(ground::dout, position, head);
                            return std::numeric_limits<double>::quiet_NaN();
                          }),
        positions(at) {}
};

/// Every token of the documents has exactly one owner.
inline std::string not_a_partition(sp::layout const& l, index_t tokens) {
  std::vector<int> owners(std::size_t(tokens), 0);
  for (int p = 0; p < l.parts(); ++p)
    for (sp::run const& r : l.runs(p))
      for (index_t i = 0; i < r.count; ++i) {
        if (r.at(i) < 0 || r.at(i) >= tokens) return "part " + std::to_string(p) + " owns position " + std::to_string(r.at(i));
        ++owners[std::size_t(r.at(i))];
      }
  for (index_t t = 0; t < tokens; ++t)
    if (owners[std::size_t(t)] != 1)
      return "token " + std::to_string(t) + " has " + std::to_string(owners[std::size_t(t)]) + " owners";
  return {};
}

/// Forward and backward of one step on all ranks.
struct study {
  std::string wrong{}; ///< the first thing that does not hold
  program events{};
  int passes = 0;
};

/// One rank's object and what it is called with.
template <class Object>
struct seat {
  sp::batch batch;
  Object attention;
  decltype(std::declval<Object const&>().prepare(std::declval<sp::batch const&>())) prepared;
  sp::pool scratch, kept;

  seat(sp::batch b, Object a) : batch(std::move(b)), attention(std::move(a)), prepared(attention.prepare(batch)) {}

  /// Forward and backward; false if they need what no pass has found yet. What they give is checked if `last`.
  bool step(ground& g, bool last) {
    rank_tensors x(g, batch);
    sp::context const ctx(scratch, kept);
    try {
      auto saved = attention.forward(prepared, ctx, x.q, x.k, x.v, x.out);
      attention.backward(prepared, ctx, std::move(saved), x.q, x.k, x.v, x.out, x.dout, x.dq, x.dk, x.dv);
      if (last) x.check(g);
    } catch (not_yet const&) {
      return false;
    }
    return true;
  }
};

/// The first thing that does not hold in what was recorded.
inline std::string first_complaint(record& all, ground& g, program const& events) {
  for (auto const* list : {&all.complaints(), static_cast<std::vector<std::string> const*>(&g.complaints)})
    if (!list->empty()) return list->front();
  for (auto&& check :
       {std::function([&] { return g.uncovered(g.forward, "forward"); }),
        std::function([&] { return g.uncovered(g.rows, "dq"); }), std::function([&] { return g.uncovered(g.keys, "dk, dv"); }),
        std::function([&] { return unmatched(events); }), std::function([&] { return disorder(events); }),
        std::function([&] { return deadlock(events, channel::posted); }),
        std::function([&] { return deadlock(events, channel::strict); })})
    if (std::string wrong = check(); !wrong.empty()) return wrong;
  return {};
}

/// Runs the objects that make(record, rank, tracer) gives until a pass changes nothing, and checks everything on what was recorded.
template <class Sharding, class Make>
study run(int ranks, std::vector<index_t> const& lengths, Sharding const& how, index_t q_heads, index_t kv_heads,
          rule const& mask, Make make) {
  std::vector<index_t> cu{0};
  for (index_t n : lengths) cu.push_back(cu.back() + n);
  ground g(lengths, q_heads, kv_heads, mask);
  record all(ranks);
  std::vector<std::unique_ptr<seat<decltype(make(all, 0, tracer(g)))>>> seats;
  for (int r = 0; r < ranks; ++r) {
    sp::batch b(sp::documents::packed(cu), how, r, ranks);
    seats.push_back(std::make_unique<typename decltype(seats)::value_type::element_type>(std::move(b), make(all, r, tracer(g))));
  }
  study s;
  if (s.wrong = not_a_partition(seats[0]->batch.layout(), g.tokens); !s.wrong.empty()) return s;
  bool stuck = false;
  auto pass = [&](bool last) {
    ++s.passes;
    all.begin_pass();
    g.begin_pass(last);
    stuck = false;
    for (int r = 0; r < ranks; ++r) {
      all.begin_rank(r);
      stuck = !seats[std::size_t(r)]->step(g, last) || stuck;
    }
  };
  do pass(false);
  while ((all.changed() || stuck) && s.passes < 12);
  pass(true);
  s.events = all.events();
  s.wrong = stuck || all.changed() ? "no consistent story after " + std::to_string(s.passes) + " passes"
                                   : first_complaint(all, g, s.events);
  return s;
}

} // namespace schedules
