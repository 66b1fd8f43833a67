// Which key or query rows each rank holds and sends, against every pair of positions of random documents, masks, lengths and shardings.
// Also what a window moves at 64K tokens, and that keys stand where everybody's would stand in the tiles of a kernel.
#include <doctest/doctest.h>

#include <random>
#include <set>
#include <string>
#include <vector>

#include <sp/attention/ring/passed_queries.hpp>
#include <sp/batch.hpp>

#include "support/sharding.hpp"

namespace test_key_cast {
namespace {

using sp::documents;
using sp::index_t;
using support::any_sharding;

/// Two streams of documents, a mask, and how both are cut.
struct problem {
  documents q_docs, k_docs;
  std::vector<sp::slice> mask;
  any_sharding q_cut, k_cut;
  int ranks = 1;

  sp::layout q() const { return {q_docs, q_cut, ranks}; }
  sp::layout k() const { return {k_docs, k_cut, ranks}; }
};

class dice {
public:
  explicit dice(unsigned seed) : g_(seed) {}
  index_t between(index_t a, index_t b) { return a + index_t(g_() % std::uint64_t(b - a + 1)); }
  bool heads() { return between(0, 1) == 1; }

private:
  std::mt19937 g_;
};

documents packed(std::vector<index_t> const& lengths, dice& d) {
  std::vector<sp::document> list;
  index_t at = d.between(0, 2);
  for (index_t n : lengths) {
    list.push_back({at, n, n + (d.between(0, 3) == 0 ? 2 : 0), index_t(list.size())});
    at += list.back().room + d.between(0, 1);
  }
  return {list, at};
}

sp::mask draw_mask(dice& d, documents const& q, documents const& k, bool cross) {
  sp::mask m;
  int const kind = int(d.between(0, 5));
  if (kind == 0) m = sp::full();
  if (kind == 1) m = sp::causal();
  if (kind == 2) m = sp::window(d.between(0, 5), d.between(0, 4));
  if (kind == 3) m = sp::window(d.between(0, 20));
  if (kind == 4) {
    m = sp::window(d.between(0, 6));
    for (auto const& x : k) {
      m.prefix.push_back(d.between(0, x.count));
      if (x.count > 6) m.spans.push_back({x.begin + 2, x.begin + 5, x.begin + 2, x.begin + 5});
    }
  }
  if (kind == 5) {
    std::vector<sp::slice> list;
    for (std::size_t i = 0; i < q.size(); ++i) {
      index_t const middle = k[i].begin + k[i].count / 2, by = middle - q[i].begin;
      list.push_back({q[i].begin, q[i].end(), k[i].begin, middle, by - 3, by + d.between(-3, 2)});
      list.push_back({q[i].begin, q[i].begin + q[i].count / 3, middle, k[i].end()});
    }
    m = sp::user_slices(list);
  }
  if (cross) m.at = d.heads() ? sp::align::begin : sp::align::end;
  return m;
}

/// Every query a few positions from the next one, and windows that see less than that.
problem stepping(unsigned seed) {
  problem p;
  p.ranks = 3 + int(seed % 6);
  p.q_docs = p.k_docs = sp::packed{0, 90, 130};
  p.mask = sp::slices(sp::window(index_t(seed) % (p.ranks - 1)), p.q_docs, p.k_docs);
  p.q_cut = {any_sharding::striped, sp::scope::stream};
  p.k_cut = {seed % 2 ? any_sharding::contiguous : any_sharding::zigzag, sp::scope::document};
  return p;
}

problem draw(unsigned seed) {
  if (seed % 20 == 0) return stepping(seed / 20);
  dice d(seed);
  std::vector<index_t> lengths, key_lengths;
  for (index_t n = d.between(1, 3); n > 0; --n) lengths.push_back(d.between(0, 40));
  bool const cross = d.heads();
  for (index_t n : lengths) key_lengths.push_back(cross ? d.between(0, 2 * n) : n);
  problem p;
  p.q_docs = packed(lengths, d);
  p.k_docs = cross ? packed(key_lengths, d) : p.q_docs;
  p.mask = sp::slices(draw_mask(d, p.q_docs, p.k_docs, cross), p.q_docs, p.k_docs);
  auto cut = [&] { return any_sharding{int(d.between(0, 2)), d.heads() ? sp::scope::stream : sp::scope::document}; };
  p.q_cut = p.k_cut = cut();
  if (d.heads()) p.k_cut = cut(); // windows then step over keys
  p.ranks = int(d.between(1, 8));
  return p;
}

/// Positions of a part's rows, in their order.
std::vector<index_t> positions(sp::layout const& l, int part) {
  std::vector<index_t> list;
  for (sp::run const& r : l.runs(part))
    for (index_t i = 0; i < r.count; ++i) list.push_back(r.at(i));
  return list;
}

/// Rows of `owner` that some query of `reader` sees, pair by pair.
std::vector<index_t> rows_seen(problem const& p, int reader, int owner) {
  std::vector<index_t> list;
  auto const queries = positions(p.q(), reader), keys = positions(p.k(), owner);
  for (std::size_t j = 0; j < keys.size(); ++j) {
    bool seen = false;
    for (index_t i : queries)
      for (sp::slice const& s : p.mask) seen = seen || s.sees(i, keys[j]);
    if (seen) list.push_back(index_t(j));
  }
  return list;
}

/// Rows of `owner` that see some key of `reader`, pair by pair.
std::vector<index_t> rows_seeing(problem const& p, int reader, int owner) {
  std::vector<index_t> list;
  auto const queries = positions(p.q(), owner), keys = positions(p.k(), reader);
  for (std::size_t i = 0; i < queries.size(); ++i) {
    bool sees = false;
    for (index_t j : keys)
      for (sp::slice const& s : p.mask) sees = sees || s.sees(queries[i], j);
    if (sees) list.push_back(index_t(i));
  }
  return list;
}

/// The rows of intervals, which ascend and do not touch each other; empty where they do.
std::vector<index_t> rows_of(std::span<sp::interval const> intervals) {
  std::vector<index_t> list;
  for (sp::interval const& i : intervals) {
    if (i.count < 1 || (!list.empty() && i.first <= list.back() + 1)) return {-1};
    for (index_t j = 0; j < i.count; ++j) list.push_back(i.first + j);
  }
  return list;
}

/// Every row of the table is the one that the cast says, at its position.
std::string wrong_table(problem const& p, sp::key_cast const& cast) {
  auto const layout = p.k();
  std::vector<std::vector<index_t>> held, at;
  for (int owner = 0; owner < p.ranks; ++owner) {
    held.push_back(rows_of(cast.held(owner)));
    at.push_back(positions(layout, owner));
  }
  index_t rows = 0, before = -1;
  for (sp::placed_run const& r : cast.table(layout)) {
    if (r.positions.begin <= before) return "not in document order";
    before = r.positions.begin;
    auto const owner = std::size_t(r.tensor);
    for (index_t i = 0; i < r.positions.count; ++i, ++rows) {
      index_t const row = r.tensor == cast.part() ? r.row + i : held[owner].at(std::size_t(r.row + i));
      if (at[owner].at(std::size_t(row)) != r.positions.at(i)) return "a row stands at another position";
    }
  }
  for (auto const& list : held) rows -= index_t(list.size());
  return rows == 0 ? "" : "rows are missing or twice";
}

/// Every row at hand stands at its position, in the order of owners.
std::string wrong_query_table(problem const& p, sp::query_cast const& cast) {
  std::vector<index_t> at; // positions of the rows, in the order in which they arrive
  for (int owner = 0; owner < p.ranks; ++owner) {
    auto const all = positions(p.q(), owner);
    for (index_t row : rows_of(cast.held(owner))) at.push_back(all.at(std::size_t(row)));
  }
  std::size_t rows = 0;
  index_t before = -1;
  for (sp::placed_run const& r : cast.table(p.q())) {
    if (r.positions.begin <= before) return "not in document order";
    before = r.positions.begin;
    for (index_t i = 0; i < r.positions.count; ++i, ++rows)
      if (r.tensor != 0 || at.at(std::size_t(r.row + i)) != r.positions.at(i)) return "a row stands at another position";
  }
  return rows == at.size() ? "" : "rows are missing or twice";
}

/// Few queries, all of one rank, or documents without keys, and ranks that have neither.
problem decode(unsigned seed) {
  dice d(seed);
  problem p;
  p.ranks = int(d.between(1, 8));
  std::vector<index_t> queries, keys;
  for (index_t n = d.between(1, 3); n > 0; --n) queries.push_back(d.between(0, 2)), keys.push_back(d.between(0, 30));
  p.q_docs = packed(queries, d), p.k_docs = packed(keys, d);
  p.mask = sp::slices(d.heads() ? sp::full(sp::align::end) : sp::window(9, 0, sp::align::end), p.q_docs, p.k_docs);
  p.q_cut = {any_sharding::contiguous, d.heads() ? sp::scope::stream : sp::scope::document};
  p.k_cut = {int(d.between(0, 2)), sp::scope::document};
  return p;
}

} // namespace

TEST_CASE("query casts: rows held and sent are those that see some key there, and routes take them there and home [asan]") {
  for (unsigned seed = 1; seed <= 200; ++seed) {
    problem const p = seed % 2 ? decode(seed) : draw(seed);
    CAPTURE(seed);
    CAPTURE(p.ranks);
    for (int part = 0; part < p.ranks; ++part) {
      sp::query_cast const cast(p.q(), p.k(), p.mask, part);
      auto const ways = sp::detail::pass_along(cast, p.q().tokens(part));
      index_t received = 0, sent = 0, arrived = 0, found = 0;
      for (int other = 0; other < p.ranks; ++other) {
        auto const held = rows_seeing(p, part, other), out = rows_seeing(p, other, part);
        auto const there = index_t(out.size()), here = index_t(held.size());
        CHECK(rows_of(cast.held(other)) == held);
        CHECK(rows_of(cast.read_by(other)) == out);
        if (other != part) received += here, sent += there;
        // arrived rows stand owner by owner, results reader by reader
        auto const lands = ways.out.lands().of(other), comes = ways.home.lands().of(other);
        CHECK((here == 0 ? lands.empty() : lands.size() == 1 && lands[0].first == arrived && lands[0].count == here));
        CHECK((there == 0 ? comes.empty() : comes.size() == 1 && comes[0].first == found && comes[0].count == there));
        CHECK(ways.out.sends().rows(other) == there);
        CHECK(ways.home.sends().rows(other) == here);
        arrived += here, found += there;
      }
      CHECK(cast.rows_received() == received);
      CHECK(cast.rows_sent() == sent);
      CHECK(ways.arrived_rows() == arrived);
      CHECK(ways.result_rows() == found);
      CHECK(wrong_query_table(p, cast) == "");
    }
  }
}

TEST_CASE("key casts: rows held and sent are those that somebody sees, and no others [asan]") {
  int stepped = 0;
  for (unsigned seed = 1; seed <= 400; ++seed) {
    problem const p = draw(seed);
    CAPTURE(seed);
    CAPTURE(p.ranks);
    for (int part = 0; part < p.ranks; ++part) {
      sp::key_cast const cast(p.q(), p.k(), p.mask, part);
      index_t received = 0, sent = 0;
      for (int other = 0; other < p.ranks; ++other) {
        auto const held = rows_seen(p, part, other), out = rows_seen(p, other, part);
        CHECK(rows_of(cast.held(other)) == held);
        if (other == part) continue;
        CHECK(rows_of(cast.sent(other)) == out);
        CHECK(cast.rows_received(other) == index_t(held.size()));
        CHECK(cast.rows_sent(other) == index_t(out.size()));
        received += index_t(held.size()), sent += index_t(out.size());
        stepped += cast.held(other).size() > 8;
      }
      CHECK(cast.sent(part).empty());
      CHECK(cast.rows_received() == received);
      CHECK(cast.rows_sent() == sent);
      CHECK(wrong_table(p, cast) == "");
    }
  }
  CHECK(stepped > 20); // windows that leave out keys between others were among them
}

TEST_CASE("key casts: a window of 256 at 64K tokens moves less than a tenth of what rotating moves") {
  constexpr index_t tokens = 65536, ranks = 8, window = 256;
  documents const docs = sp::packed{0, tokens};
  auto const mask = sp::slices(sp::window(window - 1), docs, docs);
  for (int kind : {any_sharding::contiguous, any_sharding::zigzag}) {
    sp::layout const l(docs, any_sharding{kind}, int(ranks));
    index_t sent = 0, most = 0;
    for (int part = 0; part < int(ranks); ++part) {
      index_t const rows = sp::key_cast(l, l, mask, part).rows_sent();
      sent += rows;
      most = std::max(most, rows);
    }
    index_t const chunks = kind == any_sharding::zigzag ? 2 * ranks - 2 : ranks - 1; // edges between different owners
    CHECK(sent == chunks * (window - 1));
    CHECK(10 * most < (ranks - 1) * tokens / ranks);
  }
}

TEST_CASE("key casts: in tiles of which something is at hand, nothing is left out") {
  for (unsigned seed = 1; seed <= 200; ++seed) {
    problem const p = draw(seed);
    CAPTURE(seed);
    index_t const size = 1 + index_t(seed % 11);
    int const part = int(seed) % p.ranks;
    auto table = sp::key_cast(p.q(), p.k(), p.mask, part).table(p.k());
    auto const at_hand = table;
    index_t const rows = sp::detail::complete_tiles(table, p.mask, size, p.ranks);
    std::set<index_t> held, all;
    for (auto const& r : at_hand)
      for (index_t i = 0; i < r.positions.count; ++i) held.insert(r.positions.at(i));
    index_t added = 0, before = -1;
    for (auto const& r : table) {
      CHECK(before <= r.positions.begin);
      before = r.positions.begin;
      for (index_t i = 0; i < r.positions.count; ++i) CHECK(all.insert(r.positions.at(i)).second);
      if (r.tensor == p.ranks) {
        CHECK(r.row == added);
        added += r.positions.count;
      }
    }
    CHECK(rows == added);
    std::set<index_t> want;
    for (sp::slice const& s : p.mask) {
      index_t end = s.k1;
      for (sp::slice const& o : p.mask)
        if (o.document == s.document) end = std::max(end, o.k1);
      for (index_t begin = s.k_origin; begin < end; begin += size) {
        auto const first = held.lower_bound(begin), last = held.lower_bound(std::min(begin + size, end));
        if (first == last) continue;
        for (index_t i = begin; i < std::min(begin + size, end); ++i) want.insert(i);
      }
    }
    want.insert(held.begin(), held.end());
    CHECK(all == want);
  }
}

} // namespace test_key_cast
