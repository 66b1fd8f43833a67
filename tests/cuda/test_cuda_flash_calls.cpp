// The calls of cuda_flash beside its numbers: what is refused and how, tables that are written again, order of sums, rings of several ranks.
// needs: context
// with all: takes long to compile
#include <doctest/doctest.h>

#include <atomic>
#include <cmath>

#include <sp/cuda_flash.hpp>
#include <sp/local.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>

#include "support/attention_tensors.hpp"
#include "support/counting_queue.hpp"
#include "support/emulated_queue.hpp"
#include "support/failure.hpp"
#include "support/tensors.hpp"

namespace test_cuda_flash_calls {
namespace {

using sp::bf16;
using sp::errc;
using sp::index_t;
using support::failure_of;
using support::in_memory;
using support::says;
using device = sp::device_memory;

struct tiny {
  static constexpr sp::detail::flash_shape shape{.forward_rows = 32, .backward_rows = 16, .keys = 16, .slabs = 2};
  using dims = sp::detail::head_dims<16, 32>;
};
using flash = sp::basic_cuda_flash<tiny>;
/// Tiles that are computed in two parts.
struct two_parts {
  static constexpr sp::detail::flash_shape shape{.forward_rows = 32, .backward_rows = 64, .keys = 64, .slabs = 1};
  using dims = sp::detail::head_dims<16>;
};

/// Self attention over some documents: tensors (rows, heads, dim) on the emulated device.
struct step {
  index_t rows, heads, dim;
  double scale = 1 / std::sqrt(double(dim));
  support::emulated_pool memory;
  support::emulated_queue queue;
  sp::context<support::emulated_queue> context{queue, memory, memory};
  std::vector<bf16> q, k, v, dout;
  std::vector<float> out, lse, delta, dq, dk, dv;

  step(index_t n, index_t head_count, index_t width) : rows(n), heads(head_count), dim(width) {
    std::mt19937 gen(7);
    std::normal_distribution<float> normal;
    for (auto* x : {&q, &k, &v, &dout})
      for (index_t i = 0; i < n * heads * dim; ++i) x->push_back(bf16(normal(gen)));
    clear();
  }
  void clear() {
    auto const all = std::size_t(rows * heads * dim), numbers = std::size_t(rows * heads);
    for (auto* x : {&out, &dq, &dk, &dv}) x->assign(all, 0);
    lse.assign(numbers, -std::numeric_limits<float>::infinity());
    delta.assign(numbers, 0);
  }
  static sp::problem problem(sp::documents const& docs, sp::mask const& m) {
    std::vector<sp::placed_run> const all{{{0, docs.length(), 1}, 0, 0}};
    return {all, all, sp::slices(m, docs, docs)};
  }
  sp::call_params numbers() const { return {sp::all_heads(heads, heads), scale}; }
  template <class T>
  sp::view<T, 3, device> tensor(std::vector<T>& x) const {
    return {x.data(), {rows, heads, dim}};
  }
  template <class T>
  sp::view<T, 2, device> per_head(std::vector<T>& x) const {
    return {x.data(), {rows, heads}};
  }

  template <class Flash>
  void forward(Flash const& f, flash::plan const& p) {
    sp::kv_views<bf16, device> const keys{tensor(k), tensor(v)};
    f.template forward<bf16>(p, memory, numbers(), tensor(q), std::span(&keys, 1), {tensor(out), per_head(lse)}, queue);
  }
  template <class Flash>
  void backward(Flash const& f, flash::plan const& p) {
    std::vector<bf16> rounded;
    for (float x : out) rounded.push_back(bf16(x));
    for (std::size_t i = 0; i < delta.size(); ++i) {
      delta[i] = 0;
      for (std::size_t d = i * std::size_t(dim); d < (i + 1) * std::size_t(dim); ++d) delta[i] += float(dout[d]) * out[d];
    }
    sp::query_grad<bf16, device> const query{tensor(q),     tensor(rounded), tensor(dout),
                                             per_head(lse), per_head(delta), tensor(dq)};
    sp::key_grad<bf16, device> const key{tensor(k), tensor(v), tensor(dk), tensor(dv)};
    f.template backward<bf16>(p, memory, numbers(), std::span(&query, 1), std::span(&key, 1), {}, queue);
  }
  template <class Flash>
  void both(Flash const& f, flash::plan const& p) {
    clear();
    forward(f, p);
    backward(f, p);
  }
  std::vector<std::vector<float>> results() const { return {out, lse, dq, dk, dv}; }
};

template <class Flash>
flash::plan plan_of(Flash const& f, step const& s) {
  return f.prepare(step::problem(sp::packed{0, 40, 47, 150}, sp::causal()), s.context);
}

} // namespace

TEST_CASE("cuda_flash: what it does not take is refused in a sentence, and nothing is started") {
  step s(8, 2, 16);
  flash const f;
  auto const plan = f.prepare(step::problem(sp::packed{0, 8}, sp::causal()), s.context);
  sp::kv_views<bf16, device> keys{s.tensor(s.k), s.tensor(s.v)};
  sp::attention_state<bf16, device> state{s.tensor(s.out), s.per_head(s.lse)};
  auto call = [&](sp::view<bf16 const, 3, device> q, std::vector<sp::kv_views<bf16, device>> const& list) {
    return failure_of([&] {
      f.forward<bf16>(plan, s.memory, s.numbers(), q, std::span<sp::kv_views<bf16, device> const>(list), state, s.queue);
      return 0;
    });
  };
  sp::view<bf16 const, 3, device> const q = s.tensor(s.q);
  auto narrow = q;
  narrow.extents[2] = 12;
  CHECK(says(call(narrow, {keys}), errc::unsupported, "head dim 12, value dim 16"));
  narrow.extents[2] = 40;
  CHECK(says(call(narrow, {keys}), errc::unsupported, "head dim 40, value dim 16"));
  auto apart = q;
  apart.strides = {32, 1, 2}; // (rows, dim, heads) in memory
  CHECK(says(call(apart, {keys}), errc::bad_pointer, "q with strides (32, 1, 2)"));
  auto odd = q;
  odd.data += 3;
  CHECK(says(call(odd, {keys}), errc::bad_pointer, "at an address 6 behind a multiple of 16"));
  auto crooked = keys;
  crooked.v.strides[0] = 36;
  CHECK(says(call(q, {crooked}), errc::bad_pointer, "v with strides (36, 16, 1)"));
  CHECK(says(call(q, std::vector(17, keys)), errc::unsupported, "17 tensors of keys"));
  CHECK(s.out == std::vector<float>(s.out.size(), 0));
}

TEST_CASE("cuda_flash: a batch that takes the place of another gives the bits of its own plan, and too large a one is refused") {
  step s(40, 1, 16);
  flash const f{sp::flash_options{.deterministic = true}};
  auto const a = step::problem(sp::packed{0, 40}, sp::causal()), b = step::problem(sp::packed{0, 3, 11, 40}, sp::window(4, 1));
  auto in_room = s.context;
  in_room.room = {.times = 3};
  auto plan = f.prepare(a, in_room);
  CHECK(plan.items(sp::detail::flash_pass::forward) == 6);
  s.both(f, plan);
  auto const of_a = s.results();
  f.refresh(plan, b, in_room);
  s.both(f, plan);
  auto const of_b = s.results();
  s.both(f, f.prepare(b, s.context));
  CHECK(of_b == s.results());
  s.both(f, f.prepare(a, s.context));
  CHECK(of_a == s.results());
  CHECK(of_a != of_b);

  auto full = f.prepare(a, s.context);
  auto const e = failure_of([&] { return f.refresh(full, b, s.context), 0; });
  CHECK(says(e, errc::workspace_too_small, "3 tiles of rows, there is room for 2"));
  s.both(f, full);
  CHECK(of_a == s.results());
}

TEST_CASE("cuda_flash: every result but dq has the same bits in every run, and dq has them when asked for") {
  step s(40, 2, 16);
  flash const plain, ordered{sp::flash_options{.deterministic = true}};
  auto const plan = plain.prepare(step::problem(sp::packed{0, 40}, sp::causal()), s.context);
  s.both(ordered, plan);
  auto const first = s.results();
  for (int again = 0; again < 3; ++again) { // blocks and threads come in another order each time
    s.both(ordered, plan);
    CHECK(s.results() == first);
  }
  s.both(plain, plan);
  auto const found = s.results();
  CHECK(found[0] == first[0]);
  CHECK(found[3] == first[3]);
  CHECK(found[4] == first[4]);
  double far = 0;
  for (std::size_t i = 0; i < found[2].size(); ++i) far = std::max(far, std::fabs(double(found[2][i]) - double(first[2][i])));
  CHECK(far < 1e-5);
  CHECK(plain.features() != ordered.features());
}

TEST_CASE("cuda_flash: a row that sees nothing keeps its state, bit for bit, beside rows that see something") {
  step s(16, 1, 16);
  flash const f;
  auto const mask = sp::user_slices({{8, 16, 0, 8}}); // rows 0 ... 7 are of the same tile
  auto const all = step::problem(sp::packed{0, 16}, mask);
  sp::problem const some{all.q, all.k, {{4, 16, 0, 8, -6, 0}}};
  s.forward(f, f.prepare(step::problem(sp::packed{0, 16}, sp::full()), s.context));
  auto const out = s.out, lse = s.lse;
  s.forward(f, f.prepare(all, s.context));
  for (std::size_t i = 0; i < 16; ++i) CHECK((s.lse[i] == lse[i]) == (i < 8));
  CHECK(std::equal(out.begin(), out.begin() + 8 * 16, s.out.begin()));
  auto const before = s.lse;
  s.forward(f, f.prepare(some, s.context)); // the last rows are covered by the slice, and too far from its keys
  CHECK((s.lse[12] != before[12] && s.lse[15] == before[15]));
  s.clear();
  s.forward(f, f.prepare(some, s.context));
  CHECK(std::isinf(s.lse[15]));
  CHECK((s.out[15 * 16] == 0 && !std::signbit(s.out[15 * 16])));
  s.backward(f, f.prepare(some, s.context));
  CHECK((s.dq[15 * 16] == 0 && s.dq[12 * 16] != 0 && s.dk[15 * 16] == 0));
}

TEST_CASE("cuda_flash: a scale that is negative or zero") {
  step s(40, 1, 16);
  flash const f{sp::flash_options{.deterministic = true}};
  auto const plan = f.prepare(step::problem(sp::packed{0, 40}, sp::causal()), s.context);
  s.both(f, plan);
  auto expected = s.results();
  for (float& x : expected[2]) x = -x;
  s.scale = -s.scale;
  for (bf16& x : s.q) x = bf16(-float(x));
  s.both(f, plan);
  CHECK(s.results() == expected);
  s.scale = 0; // every key counts alike
  s.both(f, plan);
  double sum = 0;
  for (index_t i = 0; i < s.rows; ++i) {
    sum += double(float(s.v[std::size_t(i * s.dim)]));
    CHECK(double(s.out[std::size_t(i * s.dim)]) == doctest::Approx(sum / double(i + 1)).epsilon(1e-5));
    CHECK(double(s.lse[std::size_t(i)]) == doctest::Approx(std::log(double(i + 1))).epsilon(1e-5));
  }
}

TEST_CASE("cuda_flash: a few blocks that share the work give the bits of one for each tile and head") {
  step s(150, 2, 16);
  support::emulated_work work;
  s.queue.work = &work;
  flash const f{sp::flash_options{.deterministic = true}};
  auto const plan = plan_of(f, s);
  s.both(f, plan);
  auto const expected = s.results();
  CHECK(work.blocks == 2 * (2 + 1 + 4) + 2 * 2 * (3 + 1 + 7));
  for (index_t blocks : {1, 3, 8}) {
    work = {};
    s.both(flash{sp::flash_options{.deterministic = true, .blocks = blocks}}, plan);
    CHECK(s.results() == expected);
    CHECK(work.blocks == 3 * blocks);
  }
  sp::basic_cuda_flash<two_parts> const g, shared{sp::flash_options{.blocks = 2}};
  s.both(g, plan_of(g, s));
  auto const of_one_each = s.results();
  s.both(shared, plan_of(shared, s));
  for (std::size_t i : {0, 1, 3, 4}) CHECK(s.results()[i] == of_one_each[i]); // dq is added up in any order
}

TEST_CASE("cuda_flash: the main loops of every head dim read fragments from shared memory without a conflict of banks") {
  for (index_t dim : {64, 128, 256}) {
    CAPTURE(dim);
    step s(16, 1, dim);
    support::emulated_work work;
    s.queue.work = &work;
    for (bool deterministic : {false, true}) {
      sp::cuda_flash<> const f{sp::flash_options{.deterministic = deterministic}};
      auto const plan = f.prepare(step::problem(sp::packed{0, 16}, sp::causal()), s.context);
      s.forward(f, plan);
      s.backward(f, plan);
    }
    CHECK(work.matrix_loads > 1000);
    CHECK(work.conflicts == 0);
  }
}

TEST_CASE("cuda_flash: a plan without work, and heads without a query, start nothing") {
  step s(8, 2, 16);
  flash const f;
  auto const empty = f.prepare({{}, {}, {}}, s.context);
  s.both(f, empty);
  CHECK(s.out == std::vector<float>(s.out.size(), 0));
  auto const one = f.prepare(step::problem(sp::packed{0, 8}, sp::causal()), s.context);
  sp::call_params none = s.numbers();
  none.heads = {2, 0, 1, 0, 2};
  sp::kv_views<bf16, device> const keys{s.tensor(s.k), s.tensor(s.v)};
  f.forward<bf16>(one, s.memory, none, s.tensor(s.q), std::span(&keys, 1), {s.tensor(s.out), s.per_head(s.lse)}, s.queue);
  CHECK(s.out == std::vector<float>(s.out.size(), 0));
}

TEST_CASE("cuda_flash: rings of three ranks on queues of a device, in every schedule, against the reference on the host") {
  sp::documents const docs = sp::packed{0, 9, 10, 40};
  sp::attention_shape const shape{4, 2, 16, 8};
  for (auto how : {sp::schedule::rotate, sp::schedule::cast, sp::schedule::pull, sp::schedule::pass_q}) {
    CAPTURE(int(how));
    std::vector<double> expected[3], found[3];
    auto results = [](auto const& x) {
      std::vector<double> list;
      for (bf16 y : x.results()) list.push_back(double(float(y)));
      return list;
    };
    sp::attention_options const options{.mask = sp::causal(), .schedule = how};
    sp::threads::run(3, [&](sp::threads const& ranks) {
      sp::batch const b(docs, sp::zigzag{}, ranks);
      support::attention_tensors<bf16> x(b, shape);
      sp::ring_attention const ring{ranks, sp::reference{}, options};
      sp::pool memory;
      x.both(ring, ring.prepare(b), sp::context(memory, memory));
      expected[ranks.rank()] = results(x);
    });
    sp::local<support::emulated_queue>::run(3, [&](sp::local<support::emulated_queue> const& ranks) {
      sp::batch const b(docs, sp::zigzag{}, ranks);
      support::attention_tensors<bf16> x(b, shape);
      sp::ring_attention const ring{ranks, flash{}, options};
      support::emulated_pool memory;
      sp::context const ctx(support::emulated_queue{}, memory, memory);
      auto const prepared = ring.prepare(b, ctx);
      auto on = [](sp::view<bf16, 3> const& v) { return in_memory<device>(v); };
      auto saved = ring.forward(prepared, ctx, on(x.q), on(x.k), on(x.v), on(x.out));
      ring.backward(prepared, ctx, std::move(saved), on(x.q), on(x.k), on(x.v), on(x.out), on(x.dout), on(x.dq), on(x.dk),
                    on(x.dv));
      found[ranks.rank()] = results(x);
    });
    for (int r = 0; r < 3; ++r) {
      double error = 0, size = 0;
      REQUIRE(found[r].size() == expected[r].size());
      for (std::size_t i = 0; i < found[r].size(); ++i) {
        error += (found[r][i] - expected[r][i]) * (found[r][i] - expected[r][i]);
        size += expected[r][i] * expected[r][i];
      }
      CHECK(error < 1e-4 * size);
      CHECK(size > 0);
    }
  }
}

} // namespace test_cuda_flash_calls
