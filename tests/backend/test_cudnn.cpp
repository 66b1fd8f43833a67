// What cuDNN is asked to compute: calls hold exactly the pairs of a problem, in the shapes that it can do and few of them;
// everything else is refused. Results on ranks: conformance/test_cudnn.cpp.
#include <doctest/doctest.h>

#include <bit>
#include <map>
#include <random>

#include <sp/backend/cudnn/kernel.hpp>
#include <sp/backend/reference.hpp>
#include <sp/sharding/contiguous.hpp>
#include <sp/sharding/striped.hpp>
#include <sp/sharding/zigzag.hpp>

#include "support/failure.hpp"
#include "support/fake_cudnn.hpp"

namespace test_cudnn {

using sp::index_t;
using sp::detail::sdpa_batch;
using support::says;

namespace {

alignas(16) sp::bf16 memory[4096]; ///< of tensors that are refused

constexpr sp::cudnn_options small{.fixed_multiple = 4, .least_length = 2};

using pair = std::array<index_t, 4>; ///< q tensor, row, k tensor, row

/// How often each pair is computed.
std::map<pair, int> computed(std::vector<sdpa_batch> const& calls) {
  std::map<pair, int> out;
  for (sdpa_batch const& b : calls)
    for (auto const& s : b.list)
      for (index_t i = 0; i < s.rows; ++i)
        for (index_t j = 0; j < (b.causal ? i + 1 : s.keys); ++j) ++out[{b.q_tensor, b.q + s.q + i, b.k_tensor, b.k + s.k + j}];
  return out;
}
/// The dense mask: every row against every key.
std::map<pair, int> visible(sp::problem const& p) {
  std::map<pair, int> out;
  for (auto const& q : p.q)
    for (auto const& k : p.k)
      for (index_t i = 0; i < q.positions.count; ++i)
        for (index_t j = 0; j < k.positions.count; ++j)
          for (auto const& s : p.mask)
            if (s.sees(q.positions.at(i), k.positions.at(j))) ++out[{q.tensor, q.row + i, k.tensor, k.row + j}];
  return out;
}

/// What is wrong with a call; empty if nothing is.
std::string wrong_with(sdpa_batch const& b, sp::cudnn_options const& how) {
  index_t q_end = 0, k_end = 0;
  bool all_even = true;
  for (index_t n = 0; n < b.count(); ++n) {
    auto const& s = b.list[std::size_t(n)];
    if (s.rows < 1 || s.keys < 1) return "an empty sequence";
    if (s.rows > b.rows || s.keys > b.keys) return "a sequence that is too long";
    if (b.causal && s.rows != s.keys) return "a causal sequence that is not square";
    if (s.q < q_end || s.k < k_end) return "sequences that overlap";
    for (auto [length, plan] : {std::array{index_t(s.rows), b.rows}, std::array{index_t(s.keys), b.keys}})
      if (plan > how.least_length && plan >= 2 * length) return "more padding than work";
    all_even = all_even && s.rows == b.rows && s.keys == b.keys && s.q == n * b.q_step && s.k == n * b.k_step;
    q_end = s.q + s.rows, k_end = s.k + s.keys;
  }
  if (b.list.empty() || b.list[0].q != 0 || b.list[0].k != 0) return "a first sequence somewhere else";
  if (q_end != b.q_span() || k_end != b.k_span()) return "a span";
  if (b.causal && b.rows != b.keys) return "a causal call that is not square";
  if (b.rows == 1 && b.keys == 1) return "one row and one key";
  if (b.even != all_even) return "even or not";
  if (!b.even && !std::has_single_bit(std::uint64_t(b.count()))) return "a number of sequences that is no power of two";
  return "";
}

void same_pairs(sp::problem const& p, sp::cudnn_options const& how, std::string const& what) {
  auto const calls = sp::detail::sdpa_batches_of(p, how);
  INFO(what);
  for (sdpa_batch const& b : calls) CHECK(wrong_with(b, how) == "");
  CHECK((computed(calls) == visible(p)));
}

template <class Sharding>
std::vector<sp::placed_run> rows_of(sp::documents const& docs, Sharding s, index_t part, index_t parts, int tensor) {
  std::vector<sp::placed_run> out;
  index_t row = 3; // rows need not begin at 0
  for (sp::document const& d : docs)
    for (sp::run r : s.runs(d.count, part, parts)) {
      r.begin += d.begin;
      if (r.count > 0) out.push_back({r, tensor, row});
      row += r.count + 1;
    }
  return out;
}

} // namespace

TEST_CASE("cudnn: every small causal block is cut into the calls of its pairs") {
  int done = 0;
  for (index_t step : {1, 3})
    for (index_t rows = 1; rows <= 6; ++rows)
      for (index_t keys = 1; keys <= 6; ++keys)
        for (index_t shift = -7; shift <= 7; ++shift) {
          sp::run const q{40, rows, step}, k{40 + shift * step + (shift % 2 ? step - 1 : 0), keys, step};
          sp::problem const p{{{q, 1, 2}}, {{k, 0, 5}}, {{0, 100, 0, 100, -sp::unbounded, 0, 0, 0}}};
          same_pairs(p, small, "block");
          ++done;
        }
  CHECK(done == 2 * 6 * 6 * 15);
}

TEST_CASE("cudnn: packed documents of every sharding become few calls of exactly their pairs") {
  std::mt19937 gen(5);
  auto draw = [&](int n) { return index_t(gen() % unsigned(n)); };
  int many = 0;
  for (int trial = 0; trial < 60; ++trial) {
    std::vector<sp::document> list;
    index_t at = draw(3);
    for (index_t n = 1 + draw(12); n > 0; --n) {
      index_t const count = draw(4) == 0 ? 8 : draw(trial % 3 == 0 ? 40 : 9);
      list.push_back({at, count, count, n});
      at += count + (draw(3) == 0 ? draw(4) : 0);
    }
    sp::documents const docs(list, at);
    index_t const parts = 1 + draw(4);
    sp::problem p{{}, {}, sp::slices(draw(2) ? sp::causal() : sp::full(), docs, docs)};
    auto add = [&](auto sharding) {
      p.q = rows_of(docs, sharding, draw(int(parts)), parts, 0);
      for (int tensor = 0; tensor < (draw(2) ? int(parts) : 1); ++tensor)
        for (auto const& r : rows_of(docs, sharding, tensor, parts, tensor)) p.k.push_back(r);
    };
    index_t const kind = draw(3);
    if (kind == 0) add(sp::contiguous{});
    if (kind == 1) add(sp::zigzag{});
    if (kind == 2) add(sp::striped{});
    sp::cudnn_options const how{.fixed_multiple = 1 + draw(9), .least_length = 2 + draw(8)};
    same_pairs(p, how, "packed");
    for (auto const& b : sp::detail::sdpa_batches_of(p, how)) many += b.count() > 1;
  }
  CHECK(many > 20);
}

TEST_CASE("cudnn: a thousand documents of all lengths take a bounded number of plans") {
  std::mt19937 gen(9);
  std::set<std::array<index_t, 4>> plans; // causal, sequences, rows, keys
  std::size_t most = 0;
  for (int batch = 0; batch < 4; ++batch) {
    sp::problem p;
    index_t at = 0;
    for (int d = 0; d < 1000; ++d) {
      index_t const n = 1 + index_t(gen() % 5000);
      p.q.push_back({{at, n, 1}, 0, at});
      p.mask.push_back({at, at + n, at, at + n, -sp::unbounded, 0, d, d});
      at += n;
    }
    p.k = p.q;
    auto const calls = sp::detail::sdpa_batches_of(p, {});
    most = std::max(most, calls.size());
    for (auto const& b : calls) {
      CHECK(wrong_with(b, {}) == "");
      if (!b.even) plans.insert({b.causal, b.count(), b.rows, b.keys});
    }
  }
  CHECK(most < 120);
  CHECK(plans.size() < 80);
}

TEST_CASE("cudnn: documents of one length are one call without lists; other lengths, and unequal gaps, are not") {
  auto calls = [](std::vector<sp::document> list, sp::cudnn_options how = {}) {
    sp::documents const docs(list, list.back().end());
    sp::problem const p{rows_of(docs, sp::contiguous{}, 0, 1, 0), rows_of(docs, sp::contiguous{}, 0, 1, 0),
                        sp::slices(sp::causal(), docs, docs)};
    return sp::detail::sdpa_batches_of(p, how);
  };
  auto const equal = calls({{0, 256, 256, 0}, {256, 256, 256, 1}, {512, 256, 256, 2}});
  REQUIRE(equal.size() == 1);
  CHECK(equal[0].even);
  CHECK(equal[0].count() == 3);
  CHECK(equal[0].q_step == 257); // rows_of leaves one row between documents
  CHECK(equal[0].rows == 256);
  auto const odd = calls({{0, 200, 200, 0}, {200, 200, 200, 1}, {400, 200, 200, 2}});
  REQUIRE(odd.size() == 2); // two sequences and one
  CHECK(!odd[0].even);
  CHECK(odd[0].rows == 256);
  CHECK(calls({{0, 200, 200, 0}}, {.fixed_multiple = 200}).at(0).rows == 200);
  CHECK(calls({{0, 3, 3, 0}}).at(0).rows == 64);
}

TEST_CASE("cudnn: what it cannot compute is refused, with what to do") {
  auto refused = [](sp::mask const& mask, index_t q_step = 1) {
    sp::documents const docs = sp::packed{0, 30};
    return support::failure_of([&] {
      return sp::detail::sdpa_batches_of({{{{0, 30 / q_step, q_step}, 0, 0}}, {{{0, 30, 1}, 0, 0}}, sp::slices(mask, docs, docs)},
                                         {});
    });
  };
  auto const e = refused(sp::window(3));
  CHECK(says(e, sp::errc::unsupported_mask, "full and square causal", "keys [0, 30)"));
  CHECK(e.remedy.find("sp::cuda_flash") != std::string::npos);
  CHECK(says(refused(sp::causal(), 2), sp::errc::unsupported_mask, "step 2"));
  CHECK(says(support::failure_of([] {
               index_t const far = index_t(1) << 31;
               return sp::detail::sdpa_batches_of({{{{0, 4, 1}, 0, far}}, {{{0, 4, 1}, 0, 0}}, {{0, 4, 0, 4}}}, {});
             }),
             sp::errc::size_overflow, "rows up to 2147483652"));
}

TEST_CASE("cudnn: tensors, head dimensions and scales that it does not take are refused before anything is queued") {
  support::fake_cudnn_report report;
  support::fake_cudnn engine(report);
  sp::basic_cudnn<sp::host_memory, support::fake_cudnn> const kernel(engine);
  auto refused = [&](sp::view<sp::bf16 const, 3> q, index_t value_dim = 8, double scale = 1) {
    sp::pool pool;
    static float out[4096], lse[64];
    index_t const rows = q.extent(0), heads = q.extent(1);
    sp::view<sp::bf16 const, 3> const k(memory, {rows, heads, q.extent(2)}), v(memory, {rows, heads, value_dim});
    sp::kv_views<sp::bf16> const keys{k, v};
    auto const plan = kernel.prepare({{{{0, rows, 1}, 0, 0}}, {{{0, rows, 1}, 0, 0}}, {{0, rows, 0, rows}}});
    auto const e = support::failure_of([&] {
      return kernel.forward<sp::bf16>(plan, pool, {sp::all_heads(heads, heads), scale, {}}, q, {&keys, 1},
                                      {{out, {rows, heads, value_dim}}, {lse, {rows, heads}}}, sp::inline_queue{});
    });
    CHECK(e.remedy.find("sp::cuda_flash") != std::string::npos);
    return e;
  };
  auto const strides = [](index_t a, index_t b, index_t c, sp::bf16* p = memory) {
    return sp::view<sp::bf16 const, 3>(p, {4, 2, 8}, {a, b, c});
  };
  CHECK(says(refused(strides(16, 8, 1, memory + 4)), sp::errc::unsupported, "q (4, 2, 8)", "another start"));
  CHECK(says(refused(strides(17, 8, 1)), sp::errc::unsupported, "strides (17, 8, 1)"));
  CHECK(says(refused(strides(32, 12, 1)), sp::errc::unsupported, "strides (32, 12, 1)"));
  CHECK(says(refused(strides(1, 32, 4)), sp::errc::unsupported, "strides (1, 32, 4)"));
  CHECK(says(refused(strides(0, 8, 1)), sp::errc::unsupported, "strides (0, 8, 1)"));
  CHECK(says(refused(strides(-16, 8, 1, memory + 64)), sp::errc::unsupported, "strides (-16, 8, 1)"));
  CHECK(says(refused({memory, {4, 2, 12}}), sp::errc::unsupported, "multiples of 8", "12 and 8"));
  CHECK(says(refused({memory, {1, 1, 264}}), sp::errc::unsupported, "up to 256", "264 and 8"));
  CHECK(says(refused(strides(16, 8, 1), 20), sp::errc::unsupported, "8 and 20"));
  CHECK(says(refused(strides(16, 8, 1), 8, -0.5), sp::errc::unsupported, "positive scales", "-0.5"));
  CHECK(says(refused(strides(16, 8, 1), 8, 0), sp::errc::unsupported, "positive scales"));
  CHECK(report.calls[0][0] + report.calls[0][1] == 0);
  CHECK(report.wrong == "");
}

namespace {

/// A dense tensor (rows, heads, width) with room between its heads and rows, of random numbers or of one number.
template <class T>
struct tensor {
  std::vector<T> memory;
  sp::view<T, 3> v;
  tensor(index_t rows, index_t heads, index_t width, unsigned seed, float all = 0)
      : memory(std::size_t(rows * (heads * (width + 8) + 16) + 8), T(all)) {
    auto const start = reinterpret_cast<std::uintptr_t>(memory.data());
    v = {memory.data() + (16 - start % 16) % 16 / sizeof(T), {rows, heads, width}, {heads * (width + 8) + 16, width + 8, 1}};
    std::mt19937 gen(seed);
    std::normal_distribution<float> normal;
    for (index_t i = 0; i < rows && seed > 0; ++i)
      for (index_t h = 0; h < heads; ++h)
        for (index_t d = 0; d < width; ++d) v(i, h, d) = T(normal(gen));
  }
};

/// Forward and backward of two rows' tensors and two keys' tensors by a backend, over states and gradients that begin as they do in a ring.
struct kernel_results {
  std::vector<tensor<float>> out, lse, dq, dk, dv; ///< of each tensor
};
constexpr index_t dim = 8, value_dim = 16;

template <class T, class Backend>
kernel_results results_of(Backend const& backend, sp::problem const& p, sp::heads const& h, double scale) {
  index_t q_rows = 0, k_rows = 0;
  for (auto const& x : p.q) q_rows = std::max(q_rows, x.row + x.positions.count);
  for (auto const& x : p.k) k_rows = std::max(k_rows, x.row + x.positions.count);
  kernel_results r;
  std::vector<tensor<T>> q, out, dout, k, v;
  std::vector<sp::kv_views<T>> keys;
  std::vector<sp::query_grad<T>> queries;
  std::vector<sp::key_grad<T>> key_grads;
  for (unsigned t = 0; t < 2; ++t) {
    q.emplace_back(q_rows, h.q_count, dim, 1 + t), out.emplace_back(q_rows, h.q_count, value_dim, 3 + t);
    dout.emplace_back(q_rows, h.q_count, value_dim, 5 + t);
    k.emplace_back(k_rows, h.kv_count, dim, 7 + t), v.emplace_back(k_rows, h.kv_count, value_dim, 9 + t);
    r.out.emplace_back(q_rows, h.q_count, value_dim, 11 + t), r.lse.emplace_back(q_rows, h.q_count, 1, 13 + t);
    r.dq.emplace_back(q_rows, h.q_count, dim, 15 + t);
    r.dk.emplace_back(k_rows, h.kv_count, dim, 17 + t), r.dv.emplace_back(k_rows, h.kv_count, value_dim, 19 + t);
    keys.push_back({k[t].v, v[t].v});
  }
  sp::pool pool;
  sp::call_params const n{h, scale, {}};
  auto const plan = backend.prepare(p);
  auto rows = [](tensor<float> const& x) { // (rows, heads)
    return sp::view<float, 2>(x.v.data, {x.v.extent(0), x.v.extent(1)}, {x.v.stride(0), x.v.stride(1)});
  };
  sp::problem first = p; // forward is of one tensor of rows
  std::erase_if(first.q, [](auto const& x) { return x.tensor != 0; });
  static_cast<void>(backend.template forward<T>(backend.prepare(first), pool, n, q[0].v, std::span<sp::kv_views<T> const>(keys),
                                                {r.out[0].v, rows(r.lse[0])}, sp::inline_queue{}));
  std::vector<std::vector<float>> delta;
  for (unsigned t = 0; t < 2; ++t) {
    auto& sums = delta.emplace_back();
    for (index_t i = 0; i < q_rows; ++i)
      for (index_t g = 0; g < h.q_count; ++g) {
        sums.push_back(0);
        for (index_t e = 0; e < value_dim; ++e) sums.back() += float(out[t].v(i, g, e)) * float(dout[t].v(i, g, e));
      }
  }
  tensor<float> const global_lse(q_rows, h.q_count, 1, 23); // as over many more keys
  for (index_t i = 0; i < q_rows; ++i)
    for (index_t g = 0; g < h.q_count; ++g) global_lse.v(i, g, 0) += 6;
  for (unsigned t = 0; t < 2; ++t) {
    queries.push_back({q[t].v,
                       out[t].v,
                       dout[t].v,
                       rows(global_lse),
                       {delta[t].data(), {q_rows, h.q_count}},
                       t == 0 ? r.dq[t].v : sp::view<float, 3>{}}); // the gradient of one tensor is not wanted
    key_grads.push_back({k[t].v, v[t].v, r.dk[t].v, r.dv[t].v});
  }
  backend.template backward<T>(plan, pool, n, std::span<sp::query_grad<T> const>(queries),
                               std::span<sp::key_grad<T> const>(key_grads), {}, sp::inline_queue{});
  CHECK(pool.bytes_in_use() == 0);
  index_t const bytes = backend.template scratch_bytes<T>(plan, h, dim, value_dim, sp::inline_queue{});
  CHECK(index_t(pool.peak_bytes()) <= bytes);
  return r;
}

double largest_difference(std::vector<tensor<float>> const& a, std::vector<tensor<float>> const& b) {
  double worst = 0;
  for (std::size_t t = 0; t < a.size(); ++t)
    for (index_t i = 0; i < a[t].v.extent(0); ++i)
      for (index_t h = 0; h < a[t].v.extent(1); ++h)
        for (index_t d = 0; d < a[t].v.extent(2); ++d) {
          double const e = std::fabs(double(a[t].v(i, h, d)) - double(b[t].v(i, h, d)));
          if (!(e <= worst)) worst = e;
        }
  return worst;
}

/// Documents whose rows lie in two tensors and whose keys lie in two others; or in one and one, in many documents.
sp::problem packed_problem(std::mt19937& gen, bool many) {
  sp::problem p;
  index_t at = 5, q_row[2] = {0, 1}, k_row[2] = {0, 2};
  for (int d = 0; d < (many ? 320 : 9); ++d) {
    index_t const n = 1 + index_t(gen() % (d % 4 == 0 && !many ? 9 : 3)), cut = many ? n : index_t(gen() % unsigned(n + 1));
    for (int t : {0, 1}) {
      index_t const begin = at + (t ? cut : 0), count = t ? n - cut : cut;
      if (count == 0) continue;
      p.q.push_back({{begin, count, 1}, t, q_row[t]});
      p.k.push_back({{begin, count, 1}, t, k_row[t]});
      q_row[t] += count + d % 2, k_row[t] += count;
    }
    p.mask.push_back({at, at + n, at, at + n, -sp::unbounded, d % 3 == 2 ? sp::unbounded : 0, d, d});
    at += n;
  }
  return p;
}

} // namespace

TEST_CASE("cudnn: what calls give is merged and added where it belongs, whatever heads are computed") {
  support::fake_cudnn_report report;
  support::fake_cudnn engine(report);
  std::mt19937 gen(3);
  int case_number = 0;
  for (sp::heads const h : {sp::all_heads(4, 2), sp::all_heads(3, 3), sp::heads_of(6, 2, 1, 4), sp::heads_of(12, 4, 1, 3)})
    for (index_t multiple : {1, 4, 64}) {
      auto const p = packed_problem(gen, case_number == 1);
      double const scale = 0.1 + 0.02 * case_number++;
      sp::basic_cudnn<sp::host_memory, support::fake_cudnn> const kernel(engine, {.fixed_multiple = multiple, .least_length = 4});
      auto const same = [&](auto const& mine, auto const& right, double rounding) {
        CHECK(largest_difference(mine.out, right.out) < 4 * rounding);
        CHECK(largest_difference(mine.lse, right.lse) < 1e-5);
        CHECK(largest_difference(mine.dq, right.dq) < 16 * rounding);
        CHECK(largest_difference(mine.dk, right.dk) < 16 * rounding);
        CHECK(largest_difference(mine.dv, right.dv) < 16 * rounding);
      };
      if (case_number % 3 == 0)
        same(results_of<sp::bf16>(kernel, p, h, scale), results_of<sp::bf16>(sp::reference{}, p, h, scale), 0x1p-8);
      else
        same(results_of<sp::fp16>(kernel, p, h, scale), results_of<sp::fp16>(sp::reference{}, p, h, scale), 0x1p-11);
    }
  CHECK(report.wrong == "");
  for (auto const& direction : report.calls)
    for (auto const& calls : direction) CHECK(calls > 10);
  bool lists_of_many = false;
  for (auto const& s : report.plans)
    lists_of_many = lists_of_many || (s.ragged && s.batch >= sp::detail::place_sequences<sp::host_memory>::most);
  CHECK(lists_of_many);
}

TEST_CASE("cudnn: the fake refuses each of the hazards") {
  using namespace sp::detail;
  alignas(16) static sp::fp16 memory[9][256];
  static float stats[64];
  static std::int32_t lengths[2][2];
  static std::int64_t offsets[9][3];
  auto complaint = [](auto const& change, bool backward = false, bool ragged = true) {
    sdpa_shape s;
    s.backward = backward, s.ragged = ragged;
    s.batch = 2, s.rows = s.keys = 4, s.q_heads = s.kv_heads = 1, s.dim = s.value_dim = 8;
    sdpa_arguments a;
    for (int t = 0; t < sdpa_tensor_count; ++t) {
      s.strides[t] = {32, 8, 8};
      offsets[t][0] = 0, offsets[t][1] = 24, offsets[t][2] = 56;
      a.offsets[t] = offsets[t];
      a.written[t] = memory[t];
      if (t <= sdpa_dout) a.read[t] = memory[t];
    }
    lengths[0][0] = lengths[1][0] = 3, lengths[0][1] = lengths[1][1] = 4;
    a.lengths[0] = lengths[0], a.lengths[1] = lengths[1];
    for (float& x : stats) x = 0;
    a.stats = stats;
    change(s, a);
    support::fake_cudnn_report report;
    alignas(16) static std::byte workspace[4096];
    support::fake_cudnn(report).run(s, a, workspace, sp::inline_queue{});
    return report.wrong;
  };
  auto wrong = [&](char const* what, auto const& change, bool backward = false) {
    INFO(std::string(what));
    CHECK(complaint(change, backward).find(what) != std::string::npos);
  };
  using shape = sdpa_shape;
  using arguments = sdpa_arguments;
  for (bool backward : {false, true})
    for (bool ragged : {false, true}) CHECK(complaint([](shape&, arguments&) {}, backward, ragged) == "");
  wrong("an empty sequence", [](shape&, arguments&) { lengths[0][1] = 0; });
  wrong("an empty sequence", [](shape&, arguments&) { lengths[1][0] = 0; });
  wrong("longer than the call", [](shape&, arguments&) { lengths[1][0] = 5; });
  wrong("a causal sequence that is not square", [](shape& s, arguments&) { s.causal = true, lengths[1][0] = 2; });
  wrong("a causal call that is not square", [](shape& s, arguments&) { s.causal = true, s.keys = 5; });
  wrong("do not ascend", [](shape&, arguments&) { offsets[sdpa_k][1] = 16; });
  wrong("not that of the last sequence", [](shape&, arguments&) { offsets[sdpa_q][2] = 64; });
  wrong("a stride", [](shape& s, arguments&) { s.strides[sdpa_v].row = 12; });
  wrong("a stride", [](shape& s, arguments&) { s.strides[sdpa_out].head = 0; });
  wrong("an address", [](shape&, arguments& a) { a.read[sdpa_q] = memory[0] + 4; });
  wrong("a head dimension", [](shape& s, arguments&) { s.dim = 12; });
  wrong("q heads", [](shape& s, arguments&) { s.kv_heads = 2; });
  wrong("without work", [](shape& s, arguments&) { s.batch = 0; });
  wrong("not positive", [](shape&, arguments& a) { a.scale = 0; });
  wrong(
      "one row and one key", [](shape& s, arguments&) { s.ragged = false, s.rows = s.keys = 1; }, true);
  wrong(
      "no numbers", [](shape&, arguments&) { stats[3] = std::nanf(""); }, true); // of a row that there is not
  wrong(
      "no numbers", [](shape&, arguments&) { stats[4] = -INFINITY; }, true);
}

TEST_CASE("cudnn: its workspace is a matter of the device, so it is not told without a queue") {
  support::fake_cudnn_report report;
  support::fake_cudnn engine(report);
  sp::basic_cudnn<sp::host_memory, support::fake_cudnn> const kernel(engine);
  auto const without = support::failure_of([&] { return kernel.scratch_bytes<sp::bf16>({}, {}, 64, 64); });
  CHECK(says(without, sp::errc::unsupported, "no queue was named"));
  CHECK(kernel.scratch_bytes<sp::bf16>({}, {}, 64, 64, sp::inline_queue{}) == 0);
}

TEST_CASE("cudnn: kernels are equal if they would prepare the same") {
  support::fake_cudnn_report report;
  support::fake_cudnn one(report), other(report);
  using kernel = sp::basic_cudnn<sp::host_memory, support::fake_cudnn>;
  CHECK(kernel(one).features() == kernel(other).features());
  CHECK(kernel(one).features() != kernel(one, {.deterministic = true}).features());
  CHECK(kernel(one).features() != kernel(one, {.fixed_multiple = 64}).features());
  CHECK(kernel(one).features() != kernel(one, {.least_length = 128}).features());
  static_assert(sp::equal_by_features<kernel>);
  static_assert(sp::attention_backend<kernel, sp::bf16> && sp::attention_backend<kernel, sp::fp16>);
  static_assert(!sp::attention_backend<kernel, float> && !sp::attention_backend<kernel, double>);
}

} // namespace test_cudnn
