// Integers of the geometry counted one by one, at run time: bands, stripes, shares of heads, strides of a mesh.
// The tests of these layers say much of the same in static_asserts, which stop a bug from compiling instead of failing.
#include <doctest/doctest.h>

#include <set>

#include <sp/geometry/block.hpp>
#include <sp/geometry/heads.hpp>
#include <sp/mesh.hpp>
#include <sp/sharding/striped.hpp>

namespace test_geometry {

using sp::axis_kind;

TEST_CASE("geometry: what a row sees, and what sees a key, is what sees() says pair by pair") {
  int wrong = 0, seen = 0;
  for (sp::index_t lo : {-sp::unbounded, sp::index_t(-3), sp::index_t(0), sp::index_t(2)})
    for (sp::index_t hi : {sp::index_t(-1), sp::index_t(0), sp::index_t(4), sp::unbounded})
      for (sp::index_t q_stride : {1, 3})
        for (sp::index_t k_stride : {1, 2}) {
          sp::block b{
              .rows = 7, .keys = 9, .q_pos = 5, .q_stride = q_stride, .k_pos = 2, .k_stride = k_stride, .lo = lo, .hi = hi};
          for (sp::index_t i = 0; i < b.rows; ++i)
            for (sp::index_t j = 0; j < b.keys; ++j) {
              sp::index_t const distance = 2 + k_stride * j - 5 - q_stride * i;
              bool const pair = lo <= distance && distance <= hi;
              sp::interval keys = b.keys_seen_by(i), rows = b.rows_seeing(j);
              wrong += (keys.first <= j && j < keys.first + keys.count) != pair;
              wrong += (rows.first <= i && i < rows.first + rows.count) != pair;
              seen += pair;
            }
        }
  CHECK(wrong == 0);
  CHECK(seen > 500);
}

TEST_CASE("geometry: stripes are the positions that leave the part as a remainder") {
  for (sp::index_t parts = 1; parts <= 5; ++parts)
    for (sp::index_t n = 0; n <= 12; ++n)
      for (sp::index_t part = 0; part < parts; ++part) {
        std::set<sp::index_t> want, found;
        for (sp::index_t i = part; i < n; i += parts) want.insert(i);
        for (sp::run const& r : sp::striped{}.runs(n, part, parts))
          for (sp::index_t i = 0; i < r.count; ++i) found.insert(r.at(i));
        CHECK(found == want);
      }
}

TEST_CASE("geometry: every share of heads holds its query heads and the kv heads they use, and its calls hold all of them") {
  for (sp::index_t kv = 1; kv <= 4; ++kv)
    for (sp::index_t group = 1; group <= 4; ++group)
      for (sp::index_t parts = 1; parts <= 6; ++parts)
        for (sp::index_t part = 0; part < parts; ++part) {
          sp::heads const h = sp::heads_of(kv * group, kv, part, parts);
          sp::index_t const first = kv * group * part / parts, last = kv * group * (part + 1) / parts;
          CHECK((h.q_begin == first && h.q_count == last - first));
          if (first == last) continue;
          CHECK((h.kv_begin == first / group && h.kv_begin + h.kv_count == (last - 1) / group + 1));
          sp::index_t next = 0, wrong = 0;
          for (sp::gqa_range const& g : sp::uniform_gqa(h)) {
            wrong += g.q_begin != next || g.q_count % g.kv_count != 0;
            for (sp::index_t i = 0; i < g.q_count; ++i) {
              sp::index_t const used = g.kv_begin + i / (g.q_count / g.kv_count);
              wrong += used != (first + g.q_begin + i) / group - first / group;
              wrong += h.q_head(g.q_begin + i) != first + g.q_begin + i;
            }
            next += g.q_count;
          }
          CHECK(wrong == 0);
          CHECK(next == h.q_count);
        }
}

TEST_CASE("geometry: the stride of a group is the distance of its neighbours in the sequence") {
  auto stride = [](sp::mesh const& m, axis_kind along) { return m.stride({along}); };
  sp::mesh const usual{sp::axis::data{2}, sp::axis::ring{3}, sp::axis::ulysses{4}},
      other{sp::axis::ulysses{4}, sp::axis::ring{3}};
  CHECK(stride(usual, axis_kind::ring) == 4);
  CHECK(stride(usual, axis_kind::ulysses) == 1);
  CHECK(stride(usual, axis_kind::data) == 1);
  CHECK(stride(other, axis_kind::ring) == 1);
  CHECK(stride(other, axis_kind::ulysses) == 3);
}

} // namespace test_geometry
