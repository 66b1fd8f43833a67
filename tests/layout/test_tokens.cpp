// What a trainer asks per token: split and gather, labels, positions, cu_seqlens, weights, owners, marked rows.
// Everything is compared with a direct definition in the caller's positions, for 1 to 8 ranks, ragged and padded.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <string>
#include <vector>

#include <sp/batch.hpp>
#include <sp/core/dtype.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/multimodal.hpp>
#include <sp/threads.hpp>

#include "support/failure.hpp"
#include "support/row_order.hpp"
#include "support/tensors.hpp"

namespace test_tokens {
namespace {

using sp::documents;
using sp::errc;
using sp::index_t;
using sp::scope;
using sp::shapes;
using support::failure_of;
using support::random_bits;
using support::same_bits;
using support::says;
using support::tensor;

std::vector<documents> streams() {
  return {sp::packed{0, 0, 7, 8, 8, 21}, sp::packed{0, 1, 2, 3}, sp::packed{0, 19},
          documents({{2, 5, 5, 7}, {9, 0, 0, 8}, {10, 8, 8, 9}}, 25), sp::packed{0, 0}};
}

template <class F>
void for_each_sharding(int parts, F&& f) {
  for (scope over : {scope::document, scope::stream}) {
    f(sp::contiguous{over});
    f(sp::zigzag{over});
    f(sp::striped{over});
  }
  for (int inner = 2; inner <= parts; ++inner)
    if (parts % inner == 0) f(sp::nested{sp::zigzag{}, inner, parts / inner > 1 && inner == 2 ? parts / inner : 1});
}

template <class F>
void for_each_batch(F&& f, int most = 8) {
  for (documents const& d : streams())
    for (int parts = 1; parts <= most; ++parts)
      for_each_sharding(parts, [&](auto const& how) {
        for (shapes local : {shapes::ragged, shapes::padded})
          for (int p = 0; p < parts; ++p) {
            f(sp::batch(d, how, p, parts, {local}));
            if (p == parts / 2) f(support::shuffled(sp::batch(d, how, p, parts, {local}), std::uint64_t(parts)));
          }
      });
}

/// The caller's position of every row of a rank; -1 for slack. Found from runs alone.
std::vector<index_t> sources(sp::batch const& b) {
  std::vector<index_t> out;
  for (sp::run const& r : b.runs())
    for (index_t i = 0; i < r.count; ++i) {
      index_t at = -1;
      for (std::size_t d = 0; d < b.docs().size(); ++d)
        if (index_t o = r.at(i) - b.docs()[d].begin; o >= 0 && o < b.docs()[d].count) at = b.source()[d].begin + o;
      out.push_back(at);
    }
  return out;
}
index_t document_of(documents const& docs, index_t p) {
  for (std::size_t d = 0; d < docs.size(); ++d)
    if (docs[d].begin <= p && p < docs[d].end()) return index_t(d);
  return -1;
}

TEST_CASE("split: every row is its token, slack rows hold the fill value [asan]") {
  index_t rows = 0, slack = 0;
  for_each_batch([&](sp::batch const& b) {
    index_t n = b.source().length();
    auto global = random_bits<std::int64_t>(n * 3, 1);
    std::vector<std::int64_t> local(std::size_t(b.tokens() * 3), 5);
    sp::split(b, tensor<2>(global, {n, 3}), tensor<2>(local, {b.tokens(), 3}), -100);
    auto from = sources(b);
    REQUIRE(index_t(from.size()) == b.tokens());
    bool good = true;
    for (index_t i = 0; i < b.tokens(); ++i)
      for (index_t c = 0; c < 3; ++c) {
        index_t at = from[std::size_t(i)];
        good = good && local[std::size_t(i * 3 + c)] == (at < 0 ? -100 : global[std::size_t(at * 3 + c)]);
        rows += at >= 0, slack += at < 0;
      }
    CHECK(good);
  });
  CHECK(rows > 10000);
  CHECK(slack > 5000);
}

TEST_CASE("split: strided tensors on both sides") {
  sp::batch b(sp::packed{0, 5, 11}, sp::zigzag{}, 1, 2);
  std::vector<float> global(11 * 8), local(std::size_t(b.tokens() * 6), -1.0f);
  for (std::size_t i = 0; i < global.size(); ++i) global[i] = float(i);
  sp::view<float, 3> g(global.data(), {11, 2, 3}, {1, 11, 22});      // tokens are the fastest dimension
  sp::view<float, 3> l(local.data(), {b.tokens(), 2, 3}, {6, 1, 2}); // the last two swapped
  sp::split(b, g, l);
  auto from = sources(b);
  for (index_t i = 0; i < b.tokens(); ++i)
    for (index_t h = 0; h < 2; ++h)
      for (index_t d = 0; d < 3; ++d) CHECK(l(i, h, d) == g(from[std::size_t(i)], h, d));
}

/// Split on every rank, gathered again: the same bits, and `gap` where no document is.
template <class T>
index_t round_trips(documents const& d, int parts, index_t width) {
  index_t wrong = 0, n = d.length();
  auto const global = random_bits<T>(n * width, unsigned(n + parts));
  T const gap = random_bits<T>(1, 99)[0];
  auto expected = global;
  for (index_t i = 0; i < n; ++i)
    if (document_of(d, i) < 0) std::fill_n(expected.begin() + i * width, width, gap);
  std::atomic<index_t> bad{0};
  sp::threads::run(parts, [&](sp::threads const& c) {
    for_each_sharding(parts, [&](auto const& how) {
      for (shapes local_shape : {shapes::ragged, shapes::padded}) {
        sp::batch b(d, how, c, {local_shape});
        std::vector<T> local(std::size_t(b.tokens() * width)), back(global.size());
        sp::split(b, tensor<2>(global, {n, width}), tensor<2>(local, {b.tokens(), width}));
        sp::gather(c, b, tensor<2>(std::as_const(local), {b.tokens(), width}), tensor<2>(back, {n, width}), gap);
        if (!same_bits(back, expected)) ++bad;
      }
    });
  });
  wrong += bad;
  return wrong;
}

TEST_CASE("DeepSpeed#6774, #8317: split, then gather is the identity for all layouts, dtypes and ranks [asan]") {
  for (documents const& d : streams())
    for (int parts = 1; parts <= 8; ++parts) CHECK(round_trips<std::int64_t>(d, parts, 2) == 0);
  for (int parts : {1, 3, 4, 8}) {
    CHECK(round_trips<sp::bf16>(sp::packed{0, 0, 7, 8, 21}, parts, 3) == 0);
    CHECK(round_trips<sp::fp16>(sp::packed{0, 0, 7, 8, 21}, parts, 1) == 0);
    CHECK(round_trips<float>(sp::packed{0, 0, 7, 8, 21}, parts, 5) == 0);
    CHECK(round_trips<double>(sp::packed{0, 0, 7, 8, 21}, parts, 4) == 0);
    CHECK(round_trips<unsigned char>(sp::packed{0, 0, 7, 8, 21}, parts, 3) == 0);
  }
}

TEST_CASE("labels: the next token across shard edges, never across documents; ignore for the last and for slack [asan]") {
  index_t ignored = 0, real = 0;
  for (index_t by : {1, 2, 3})
    for_each_batch([&](sp::batch const& b) {
      index_t n = b.source().length();
      std::vector<std::int64_t> tokens(static_cast<std::size_t>(n)), labels(std::size_t(b.tokens()), 7);
      for (index_t i = 0; i < n; ++i) tokens[std::size_t(i)] = 1000 + i;
      sp::shifted_labels(b, tensor<1>(std::as_const(tokens), {n}), tensor<1>(labels, {b.tokens()}), -100, by);
      auto from = sources(b);
      bool good = true;
      for (std::size_t i = 0; i < from.size(); ++i) {
        index_t d = from[i] < 0 ? -1 : document_of(b.source(), from[i]);
        bool has = d >= 0 && document_of(b.source(), from[i] + by) == d;
        good = good && labels[i] == (has ? 1000 + from[i] + by : -100);
        ++(has ? real : ignored);
      }
      CHECK(good);
    });
  CHECK(real > 10000);
  CHECK(ignored > 1000);
}

TEST_CASE("positions: inside the document or in the stream; slack 0 [asan]") {
  for_each_batch([&](sp::batch const& b) {
    std::vector<index_t> in_document(std::size_t(b.tokens()), -7), in_stream(in_document);
    sp::positions(b, tensor<1>(in_document, {b.tokens()}));
    sp::positions(b, tensor<1>(in_stream, {b.tokens()}), sp::positions_in::stream);
    auto from = sources(b);
    bool good = true;
    for (std::size_t i = 0; i < from.size(); ++i) {
      index_t d = from[i] < 0 ? -1 : document_of(b.source(), from[i]);
      good = good && in_stream[i] == std::max<index_t>(from[i], 0) &&
             in_document[i] == (d < 0 ? 0 : from[i] - b.source()[std::size_t(d)].begin);
    }
    CHECK(good);
  });
}

/// Qwen2-VL's get_rope_index, token after token: a grid starts one behind the largest position used so far, and so does text.
std::vector<std::array<index_t, 3>> sequential_rope(documents const& docs, std::vector<sp::vision_grid> const& grids) {
  std::vector<std::array<index_t, 3>> out(std::size_t(docs.length()), {0, 0, 0});
  for (sp::document const& d : docs) {
    index_t largest = -1;
    for (index_t at = d.begin; at < d.end();) {
      auto grid = std::find_if(grids.begin(), grids.end(), [&](sp::vision_grid const& g) { return g.begin == at; });
      index_t base = largest + 1;
      if (grid == grids.end()) {
        out[std::size_t(at++)] = {base, base, base};
        largest = base;
        continue;
      }
      for (index_t t = 0; t < grid->frames; ++t)
        for (index_t h = 0; h < grid->height; ++h)
          for (index_t w = 0; w < grid->width; ++w) {
            out[std::size_t(at++)] = {base + t, base + h, base + w};
            largest = std::max({largest, base + t, base + h, base + w});
          }
    }
  }
  return out;
}

TEST_CASE("positions: 3-D rotary positions agree with Qwen2-VL's rule token by token [asan]") {
  // three documents: text image text video; an image at once, two in a row; text only
  documents docs({{0, 40, 40, 0}, {40, 25, 25, 1}, {70, 9, 9, 2}}, 80);
  std::vector<sp::vision_grid> grids{{3, 1, 2, 3}, {12, 4, 2, 2}, {40, 1, 1, 5}, {45, 2, 3, 1}, {60, 1, 2, 1}};
  auto want = sequential_rope(docs, grids);
  CHECK(want[9] == std::array<index_t, 3>{6, 6, 6}); // three words, an image of height 2 and width 3, so text goes on at 3 + 3
  for (int parts = 1; parts <= 8; ++parts)
    for_each_sharding(parts, [&](auto const& how) {
      for (shapes local : {shapes::ragged, shapes::padded})
        for (int p = 0; p < parts; ++p) {
          sp::batch b(docs, how, p, parts, {local});
          std::vector<index_t> out(std::size_t(b.tokens() * 3), -1);
          sp::multimodal_positions(b, grids, tensor<2>(out, {b.tokens(), 3}));
          auto from = sources(b);
          bool good = true;
          for (std::size_t i = 0; i < from.size(); ++i)
            for (std::size_t axis = 0; axis < 3; ++axis)
              good = good && out[i * 3 + axis] == (from[i] < 0 ? 0 : want[std::size_t(from[i])][axis]);
          CHECK(good);
        }
    });
}

TEST_CASE("local cu_seqlens count the rows of each document, slack included") {
  for_each_batch([&](sp::batch const& b) {
    auto cu = sp::local_cu_seqlens(b);
    REQUIRE(cu.size() == b.docs().size() + 1);
    CHECK(cu.front() == 0);
    CHECK(cu.back() == b.tokens());
    bool good = true;
    for (std::size_t d = 0; d < b.docs().size(); ++d) {
      index_t rows = 0, real = 0;
      auto const& x = b.docs()[d];
      for (sp::run const& r : b.runs())
        for (index_t i = 0; i < r.count; ++i) {
          index_t o = r.at(i) - x.begin;
          rows += o >= 0 && o < x.room, real += o >= 0 && o < x.count;
        }
      good = good && cu[d + 1] - cu[d] == rows && sp::real_tokens(b, d, b.part()) == real;
    }
    CHECK(good);
  });
}

TEST_CASE("loss weights: 1 where a label counts, 0 for ignored labels and slack") {
  for_each_batch([&](sp::batch const& b) {
    index_t n = b.source().length();
    std::vector<std::int64_t> tokens(static_cast<std::size_t>(n)), labels(std::size_t(b.tokens()));
    for (index_t i = 0; i < n; ++i) tokens[std::size_t(i)] = i % 3 == 0 ? -100 : i;
    sp::split(b, tensor<1>(tokens, {n}), tensor<1>(labels, {b.tokens()}), 0); // slack carries a label that looks real
    std::vector<float> weights(labels.size(), 9);
    sp::loss_weights(b, tensor<1>(std::as_const(labels), {b.tokens()}), tensor<1>(weights, {b.tokens()}), -100);
    auto from = sources(b);
    bool good = true;
    for (std::size_t i = 0; i < from.size(); ++i) good = good && weights[i] == (from[i] >= 0 && from[i] % 3 != 0 ? 1.0f : 0.0f);
    CHECK(good);
  });
}

TEST_CASE("owners and marked rows in the caller's positions") {
  for_each_batch([&](sp::batch const& b) {
    index_t n = b.source().length();
    auto from = sources(b);
    std::vector<char> marked(static_cast<std::size_t>(n));
    for (index_t i = 0; i < n; ++i) marked[std::size_t(i)] = i % 4 == 1 || i == n - 1;
    std::vector<index_t> want;
    bool good = true;
    for (std::size_t i = 0; i < from.size(); ++i) {
      if (from[i] < 0) continue;
      good = good && sp::owner_of(b, from[i]) == sp::owner{b.part(), index_t(i)};
      if (marked[std::size_t(from[i])]) want.push_back(index_t(i));
    }
    for (index_t i = 0; i < n; ++i)
      if (document_of(b.source(), i) < 0) good = good && sp::owner_of(b, i) == sp::owner{};
    CHECK(good);
    CHECK(sp::local_rows(b, std::span<char const>(marked)) == want);
  });
}

TEST_CASE("twinkle: query length and cu_seqlens disagree: both numbers are printed") {
  sp::batch b(sp::packed{0, 4, 10}, sp::zigzag{}, 1, 2);
  std::vector<float> x(100);
  auto rows = [&](index_t n) { return tensor<2>(x, {n, 2}); };
  auto e = failure_of([&] {
    sp::split(b, rows(12), rows(b.tokens()));
    return 0;
  });
  CHECK(says(e, errc::bad_documents, "12", "10"));
  CHECK(e.primitive == "split");
  CHECK(e.rank == 1);
  CHECK(says(failure_of([&] {
               sp::split(b, rows(10), rows(4));
               return 0;
             }),
             errc::invalid_shape, "4 rows", "owns 5"));
  CHECK(says(failure_of([&] {
               sp::split(b, rows(10), sp::view<float, 2>(x.data(), {b.tokens(), 3}));
               return 0;
             }),
             errc::invalid_shape, "(10, 2)", "(5, 3)"));
  std::vector<std::int64_t> ids(12);
  CHECK(says(failure_of([&] {
               sp::shifted_labels(b, tensor<1>(std::as_const(ids), {12}), tensor<1>(ids, {5}), -100);
               return 0;
             }),
             errc::bad_documents, "12", "10"));
  std::vector<char> marks(9);
  CHECK(says(failure_of([&] { return sp::local_rows(b, std::span<char const>(marks)); }), errc::bad_documents, "9 marks",
             "10 positions"));

  // declared slack is no error
  sp::batch slack(documents::packed(std::vector<index_t>{0, 4, 10}, 12), sp::zigzag{}, 1, 2);
  std::vector<float> mine(std::size_t(slack.tokens() * 2));
  sp::split(slack, rows(12), tensor<2>(mine, {slack.tokens(), 2}));
  CHECK(slack.tokens() == 5);
}

TEST_CASE("zigzag: the reorder ids of a rank-major gather (docs/semantics.md)") {
  for (int parts = 1; parts <= 8; ++parts) {
    index_t p = 3, chunks = 2 * parts; // three tokens in each chunk
    sp::layout l(sp::packed{0, p * chunks}, sp::zigzag{}, parts);
    std::vector<index_t> gathered; // chunk numbers in rank-major order
    for (int r = 0; r < parts; ++r)
      for (sp::run const& x : l.runs(r))
        for (index_t i = 0; i < x.count; i += p) gathered.push_back(x.at(i) / p);
    REQUIRE(index_t(gathered.size()) == chunks);
    std::vector<index_t> ids(gathered.size()), inverse(gathered.size());
    for (index_t r = 0; r < parts; ++r) {
      ids[std::size_t(r)] = 2 * r;
      ids[std::size_t(r + parts)] = 2 * parts - 2 * r - 1;
      inverse[std::size_t(2 * r)] = r;
      inverse[std::size_t(2 * r + 1)] = 2 * parts - r - 1;
    }
    for (index_t i = 0; i < chunks; ++i) {
      CHECK(gathered[std::size_t(ids[std::size_t(i)])] == i);
      CHECK(gathered[std::size_t(i)] == inverse[std::size_t(i)]);
    }
  }
}

TEST_CASE("tokens: local tensors of another height are refused before a row is touched [asan]") {
  sp::batch b(sp::packed{0, 4, 10}, sp::zigzag{}, 1, 2); // 5 rows here
  auto refused = [&](auto call, std::string primitive, auto... texts) {
    auto e = failure_of([&] {
      call();
      return 0;
    });
    CHECK(says(e, errc::invalid_shape, texts...));
    CHECK(e.primitive == primitive);
    CHECK(e.rank == 1);
  };
  std::vector<index_t> few(3), many(18);
  refused([&] { sp::positions(b, tensor<1>(few, {3})); }, "positions", "3 rows", "owns 5");
  refused([&] { sp::multimodal_positions(b, {}, tensor<2>(few, {1, 3})); }, "multimodal_positions", "1 rows", "owns 5");
  refused([&] { sp::multimodal_positions(b, {}, tensor<2>(many, {5, 2})); }, "multimodal_positions", "(5, 2)", "not 3");
  std::vector<float> weights(5), short_weights(4);
  refused([&] { sp::loss_weights(b, tensor<1>(std::as_const(few), {3}), tensor<1>(weights, {5}), -100); }, "loss_weights",
          "3 rows", "owns 5");
  refused([&] { sp::loss_weights(b, tensor<1>(std::as_const(many), {5}), tensor<1>(short_weights, {4}), -100); }, "loss_weights",
          "4 rows", "owns 5");
}

TEST_CASE("labels: a shift against the stream would leave the document and is refused") {
  sp::batch b(sp::packed{0, 4, 10}, sp::zigzag{}, 0, 2);
  std::vector<std::int64_t> ids(10, 3), labels(5, 7);
  auto e = failure_of([&] {
    sp::shifted_labels(b, tensor<1>(std::as_const(ids), {10}), tensor<1>(labels, {5}), -100, -1);
    return 0;
  });
  CHECK(says(e, errc::invalid_shape, "-1"));
  CHECK(e.primitive == "shifted_labels");
  CHECK(labels == std::vector<std::int64_t>(5, 7));
  CHECK(says(failure_of([&] { return sp::shift_map(b.docs(), -1); }), errc::invalid_shape, "-1"));
  CHECK(sp::shift_map(b.docs(), std::numeric_limits<index_t>::max()).empty());
  CHECK(says(failure_of([&] {
               return sp::document_map(b.docs(), sp::packed{0, 10});
             }),
             errc::bad_documents, "2 documents", "mapped to 1"));
}

TEST_CASE("split: in place is refused as aliasing") {
  sp::batch b(sp::packed{0, 4, 10}, sp::zigzag{}, 1, 2);
  std::vector<float> x(20);
  auto e = failure_of([&] {
    sp::split(b, tensor<2>(x, {10, 2}), sp::view<float, 2>(x.data() + 2, {5, 2}));
    return 0;
  });
  CHECK(says(e, errc::aliasing, "local", "global"));
  CHECK(e.primitive == "split");
  CHECK(e.rank == 1);
}

TEST_CASE("positions: grids that are unsorted, overlap, hold nothing or leave their document are refused with their numbers") {
  sp::batch b(documents({{2, 20, 20, 0}, {30, 10, 10, 1}}, 45), sp::zigzag{}, 0, 2);
  std::vector<index_t> out(std::size_t(b.tokens() * 3));
  auto failure = [&](std::vector<sp::vision_grid> grids) {
    return failure_of([&] {
      sp::multimodal_positions(b, grids, tensor<2>(out, {b.tokens(), 3}));
      return 0;
    });
  };
  CHECK(says(failure({{10, 1, 2, 2}, {3, 1, 2, 3}}), errc::invalid_shape, "grid 1 {3, 1 x 2 x 3}", "grid 0 {10, 1 x 2 x 2}"));
  CHECK(says(failure({{3, 1, 2, 3}, {8, 1, 2, 2}}), errc::invalid_shape, "grid 1 {8", "grid 0 {3")); // they share position 8
  CHECK(says(failure({{3, 1, -2, -3}}), errc::invalid_shape, "1 x -2 x -3"));
  CHECK(says(failure({{3, 0, 2, 3}}), errc::invalid_shape, "0 x 2 x 3"));
  CHECK(says(failure({{20, 1, 1, 3}}), errc::invalid_shape, "grid 0 {20", "leaves its document")); // into the gap
  CHECK(says(failure({{24, 1, 1, 1}}), errc::invalid_shape, "leaves its document"));
  CHECK(says(failure({{0, 1, 1, 1}}), errc::invalid_shape, "leaves its document"));
  CHECK(failure({{3, index_t{1} << 32, index_t{1} << 32, 1}}).code == errc::size_overflow);
  std::vector<sp::vision_grid> touching{{3, 1, 2, 3}, {9, 1, 1, 13}, {30, 2, 1, 5}};
  sp::multimodal_positions(b, touching, tensor<2>(out, {b.tokens(), 3}));
}

} // namespace
} // namespace test_tokens
