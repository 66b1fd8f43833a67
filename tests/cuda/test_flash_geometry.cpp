// The geometry of cuda_flash against a dense mask: every pair of a row and a key is met once where it is visible, and masked elsewhere.
// Rows by runs, stripes and tensors; any slices; what is called full is full.
#include <doctest/doctest.h>

#include <random>

#include <sp/backend/cuda/flash_loop.hpp>
#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>

namespace test_flash_geometry {
namespace {

using sp::index_t;
using namespace sp::detail;

/// Parts [first, last) of a sharding's rows, each in a tensor of its own.
template <class Sharding>
std::vector<sp::placed_run> rows_of(sp::documents const& docs, Sharding s, index_t first, index_t last, index_t parts) {
  std::vector<sp::placed_run> out;
  for (index_t p = first; p < last; ++p) {
    std::vector<sp::run> runs;
    for (sp::document const& d : docs)
      for (sp::run r : s.runs(d.count, p, parts)) {
        r.begin += d.begin;
        sp::append(runs, r);
      }
    for (auto const& x : sp::place(runs, int(p - first))) out.push_back(x);
  }
  std::sort(out.begin(), out.end(), [](auto const& a, auto const& b) { return a.positions.begin < b.positions.begin; });
  return out;
}

struct place_of_row {
  int tensor = -1;
  index_t row = -1;
  friend bool operator==(place_of_row const&, place_of_row const&) = default;
};
/// A row of a tile as a kernel finds it.
struct tile_row {
  place_of_row at;
  int offset;
};
std::vector<tile_row> spelled_out(flash_tile const& t, flash_segment const* segments) {
  std::vector<tile_row> out;
  for (int i = 0, s = 0; i < t.rows; ++i) {
    while (s + 1 < t.segments && segments[s + 1].begin <= i) ++s;
    flash_segment const& x = segments[s];
    out.push_back({{x.tensor, x.row + (i - x.begin)}, x.offset + (i - x.begin) * x.stride});
  }
  return out;
}

/// Counts, for every pair of positions, how often a pass meets it.
struct dense {
  sp::problem const& p;
  index_t nq, nk;
  std::vector<place_of_row> q, k; ///< by position: where its row is at hand
  std::vector<int> met;

  dense(sp::problem const& of, index_t queries, index_t keys)
      : p(of), nq(queries), nk(keys), q(fill(of.q, queries)), k(fill(of.k, keys)), met(std::size_t(queries * keys)) {}
  static std::vector<place_of_row> fill(std::vector<sp::placed_run> const& table, index_t n) {
    std::vector<place_of_row> out{std::size_t(n)};
    for (auto const& x : table)
      for (index_t i = 0; i < x.positions.count; ++i) out[std::size_t(x.positions.at(i))] = {x.tensor, x.row + i};
    return out;
  }
  bool visible(index_t i, index_t j) const {
    for (auto const& s : p.mask)
      if (s.sees(i, j)) return q[std::size_t(i)].tensor >= 0 && k[std::size_t(j)].tensor >= 0;
    return false;
  }
  index_t position(std::vector<place_of_row> const& side, place_of_row const& at) const {
    return index_t(std::find(side.begin(), side.end(), at) - side.begin());
  }
};

/// The number of pairs that a pass meets wrongly, of rows that are not where they should be, and of wrong promises.
int faults(sp::problem const& p, flash_geometry const& g, flash_pass pass, index_t nq, index_t nk, int column_tile) {
  dense d(p, nq, nk);
  auto const words = g.words();
  flash_lists const lists{words.data(), int(pass)};
  bool const turned = pass == flash_pass::keys;
  int wrong = 0, before = std::numeric_limits<int>::max();
  for (int i = 0; i < lists.head().items; ++i) {
    flash_item const& item = lists.item(i);
    flash_tile const& t = lists.row_tile(item.tile);
    auto const rows = spelled_out(t, lists.row_segments(t));
    int columns_met = 0, last = -1;
    for (int r = item.first_range; r < item.first_range + item.ranges; ++r) {
      flash_range const& range = lists.range(r);
      columns_met += range.last - range.first;
      wrong += range.first < last; // in order
      last = range.last;
      for (int c = range.first; c < range.last; ++c) {
        flash_tile const& of_columns = lists.column_tile(c);
        wrong += of_columns.id_low != t.id_low || (range.slices == 0 && of_columns.rows != column_tile);
        auto const columns = spelled_out(of_columns, lists.column_segments(of_columns));
        for (auto const& row : rows)
          for (auto const& column : columns) {
            bool seen = range.slices == 0;
            for (int s = 0; s < range.slices; ++s) {
              flash_slice const& x = lists.slices(range.first_slice)[s];
              int const far = column.offset - row.offset;
              seen = seen || (x.r0 <= row.offset && row.offset < x.r1 && x.c0 <= column.offset && column.offset < x.c1 &&
                              x.lo <= far && far <= x.hi);
            }
            if (!seen) continue;
            index_t const a = d.position(turned ? d.k : d.q, row.at), b = d.position(turned ? d.q : d.k, column.at);
            index_t const query = turned ? b : a, key = turned ? a : b;
            if (query >= nq || key >= nk)
              ++wrong; // a row that is not read sees or is seen
            else
              ++d.met[std::size_t(query * nk + key)];
          }
      }
    }
    wrong += columns_met > before; // heavy first
    before = columns_met;
  }
  for (index_t i = 0; i < nq; ++i)
    for (index_t j = 0; j < nk; ++j) wrong += d.met[std::size_t(i * nk + j)] != int(d.visible(i, j));
  return wrong;
}

int faults(sp::problem const& p, index_t nq, index_t nk) {
  flash_shape const shape{.forward_rows = 16, .backward_rows = 8, .keys = 6, .slabs = 1}; // the geometry takes any numbers
  flash_geometry const g(p, shape);
  return faults(p, g, flash_pass::forward, nq, nk, shape.keys) + faults(p, g, flash_pass::queries, nq, nk, shape.keys) +
         faults(p, g, flash_pass::keys, nq, nk, shape.backward_rows);
}

sp::mask drawn_mask(std::mt19937& gen, sp::documents const& docs) {
  auto upto = [&](unsigned n) { return index_t(gen() % (n + 1)); };
  switch (gen() % 5) {
  case 0:
    return sp::full();
  case 1:
    return sp::window(upto(20) - 3, upto(9) + 3);
  case 2: {
    sp::mask m = sp::causal();
    for (sp::document const& d : docs) m.prefix.push_back(upto(unsigned(d.count)));
    return m;
  }
  case 3: {
    std::vector<sp::document> images;
    for (sp::document const& d : docs)
      if (d.count > 12) images.push_back({d.begin + upto(5), 6, 6});
    return sp::image_spans(images);
  }
  default:
    return sp::causal();
  }
}

} // namespace

TEST_CASE("flash geometry: every visible pair once, nothing else, in order, heavy tiles first [asan]") {
  for (unsigned seed = 1; seed <= 120; ++seed) {
    CAPTURE(seed);
    std::mt19937 gen(seed);
    auto upto = [&](unsigned n) { return index_t(gen() % (n + 1)); };
    std::vector<index_t> offsets{0};
    for (index_t d = upto(3); d >= 0; --d) offsets.push_back(offsets.back() + (gen() % 3 ? upto(40) : upto(3)));
    auto const docs = sp::documents::packed(offsets, offsets.back() + upto(3));
    sp::mask const rule = drawn_mask(gen, docs);
    index_t const parts = 1 + upto(3), part = upto(unsigned(parts - 1)), n = docs.length();
    auto table = [&](index_t first, index_t last) {
      switch (gen() % 3) {
      case 0:
        return rows_of(docs, sp::contiguous{}, first, last, parts);
      case 1:
        return rows_of(docs, sp::zigzag{}, first, last, parts);
      default:
        return rows_of(docs, sp::striped{}, first, last, parts);
      }
    };
    bool const all_keys = gen() % 2, all_rows = gen() % 2;
    sp::problem const p{table(all_rows ? 0 : part, all_rows ? parts : part + 1),
                        table(all_keys ? 0 : part, all_keys ? parts : part + 1), sp::slices(rule, docs, docs)};
    CHECK(faults(p, n, n) == 0);
  }
}

TEST_CASE("flash geometry: queries and keys of other numbers, slices of any kind, rows that no slice covers") {
  auto whole = [](sp::documents const& d) { return std::vector<sp::placed_run>{{{0, d.length(), 1}, 0, 0}}; };
  auto const q = sp::packed{0, 9, 10, 30}, k = sp::packed{0, 40, 41, 44};
  for (auto at : {sp::align::begin, sp::align::end})
    for (sp::mask const& m : {sp::causal(at), sp::window(7, 2, at), sp::full(at)}) {
      sp::problem const p{whole(q), whole(k), sp::slices(m, q, k)};
      CHECK(faults(p, 30, 44) == 0);
    }
  auto const one = sp::packed{0, 60};
  sp::mask const odd =
      sp::user_slices({{5, 20, 7, 30, -3, 12}, {20, 26, 40, 60}, {20, 41, 3, 9}, {50, 60, 0, 1}, {50, 60, 55, 60, -2, 0}});
  sp::problem const p{whole(one), whole(one), sp::slices(odd, one, one)};
  CHECK(faults(p, 60, 60) == 0);
  CHECK(faults({{}, whole(one), p.mask}, 60, 60) == 0);
  CHECK(faults({whole(one), {}, p.mask}, 60, 60) == 0);
  CHECK(faults({whole(one), whole(one), {}}, 60, 60) == 0);
}

TEST_CASE("flash geometry: a tile is whole documents cut at fixed places, however many tensors hold its rows") {
  auto const docs = sp::packed{0, 100, 150};
  auto const mask = sp::slices(sp::causal(), docs, docs);
  std::vector<std::vector<int>> firsts;
  for (index_t parts : {1, 3, 4}) {
    flash_geometry const g({rows_of(docs, sp::striped{}, 0, parts, parts), rows_of(docs, sp::zigzag{}, 0, parts, parts), mask},
                           {.forward_rows = 32, .backward_rows = 16, .keys = 16});
    std::vector<int> list;
    for (auto const* side : {&g.forward_rows, &g.backward_rows, &g.keys})
      for (flash_tile const& t : side->tiles) list.insert(list.end(), {t.first, t.last, t.rows});
    firsts.push_back(list);
  }
  CHECK(firsts[0] == firsts[1]);
  CHECK(firsts[0] == firsts[2]);
}

TEST_CASE("flash geometry: lists grow with tiles, not with pairs of tiles") {
  index_t const n = 1 << 16;
  auto const docs = sp::packed{0, n};
  std::vector<sp::placed_run> const all{{{0, n, 1}, 0, 0}};
  flash_geometry const g({all, all, sp::slices(sp::causal(), docs, docs)}, {});
  for (flash_work const& w : g.work) {
    CHECK(w.ranges.size() <= 2 * w.items.size());
    CHECK(w.slices.size() == 1);
  }
  CHECK(g.items(0) == int(n / 128));
  CHECK(g.words().size() * sizeof(int) < std::size_t(n) * 8);
}

TEST_CASE("flash geometry: blocks that share the work have every unit once, and loads that differ by the heaviest unit at most") {
  for (unsigned seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    std::mt19937 gen(seed);
    std::vector<index_t> offsets{0};
    for (unsigned d = 1 + gen() % 9; d > 0; --d) offsets.push_back(offsets.back() + 1 + index_t(gen() % 900));
    auto const docs = sp::documents::packed(offsets);
    sp::mask const rule = seed % 3 ? sp::causal() : sp::window(index_t(gen() % 500), 0);
    std::vector<sp::placed_run> const all{{{0, docs.length(), 1}, 0, 0}};
    flash_geometry const g({all, all, sp::slices(rule, docs, docs)}, {.forward_rows = 32, .backward_rows = 16, .keys = 16});
    index_t const heads = 1 + index_t(gen() % 3), blocks = 1 + index_t(gen() % 40);
    for (flash_work const& w : g.work) {
      std::vector<int> tiles; // of columns, by unit
      for (flash_item const& item : w.items) {
        int n = 0;
        for (int r = item.first_range; r < item.first_range + item.ranges; ++r)
          n += w.ranges[std::size_t(r)].last - w.ranges[std::size_t(r)].first;
        tiles.insert(tiles.end(), std::size_t(heads), n);
      }
      index_t const units = index_t(tiles.size());
      std::vector<int> taken(tiles.size()), load(std::size_t(blocks), 0);
      for (index_t b = 0; b < blocks; ++b)
        for (index_t round = 0; round * blocks < units; ++round) {
          index_t const unit = flash_share{b, blocks}.unit(round);
          if (unit >= units) continue;
          ++taken[std::size_t(unit)];
          load[std::size_t(b)] += tiles[std::size_t(unit)];
        }
      CHECK(taken == std::vector<int>(tiles.size(), 1));
      auto const [least, most] = std::minmax_element(load.begin(), load.end());
      CHECK(*most - *least <= tiles.front());
    }
  }
}

TEST_CASE("flash geometry: blocks that share the work of a causal document have the same load") {
  auto const docs = sp::packed{0, 512};
  std::vector<sp::placed_run> const all{{{0, 512, 1}, 0, 0}};
  flash_geometry const g({all, all, sp::slices(sp::causal(), docs, docs)}, {.forward_rows = 16, .backward_rows = 16, .keys = 16});
  for (flash_work const& w : g.work) {
    REQUIRE(w.items.size() == 32);
    std::vector<index_t> load(8);
    for (index_t b = 0; b < 8; ++b)
      for (index_t round = 0; round < 4; ++round) {
        flash_item const& item = w.items[std::size_t(flash_share{b, 8}.unit(round))];
        for (int r = item.first_range; r < item.first_range + item.ranges; ++r)
          load[std::size_t(b)] += w.ranges[std::size_t(r)].last - w.ranges[std::size_t(r)].first;
      }
    CHECK(load == std::vector<index_t>(8, 33 * 32 / 2 / 8));
  }
}

TEST_CASE("flash geometry: documents of more than 2^29 tokens are refused") {
  auto const docs = sp::packed{0, index_t{1} << 29, (index_t{1} << 29) + 1};
  sp::problem const p{{}, {}, sp::slices(sp::causal(), docs, docs)};
  flash_geometry const fits(p, {});
  auto const longer = sp::packed{0, (index_t{1} << 29) + 1};
  CHECK_THROWS_WITH_AS(flash_geometry({{}, {}, sp::slices(sp::causal(), longer, longer)}, {}),
                       doctest::Contains("at most 2^29 tokens"), sp::error);
}

} // namespace test_flash_geometry
