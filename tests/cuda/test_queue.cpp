// The CUDA queue over a fake of the runtime: passes, sums, copies and uploads have the numbers of the host, whatever streams do meanwhile.
// Waits that are missing show, captures replay, and every call of the runtime that fails becomes an sp::error that names it.
// needs: context cuda
#include <doctest/doctest.h>

#include <functional>
#include <optional>
#include <random>
#include <set>
#include <thread>

#include <sp/core/elementwise.hpp>
#include <sp/cuda.hpp>

#include "cuda/place.hpp"
#include "support/failure.hpp"

namespace test_queue {

using namespace cuda_tests;
using sp::errc;
using sp::piece;
using support::failure_of;
using support::says;

static_assert(sp::queue<cuda_queue> && !sp::task_queue<cuda_queue>);
static_assert(std::copyable<cuda_queue::event> && std::equality_comparable<cuda_queue>);
static_assert(std::same_as<sp::cuda_local, sp::local<cuda_queue>> && sp::communicator<sp::cuda_local>);

namespace {

struct count {
  sp::view<int, 3, device_memory> seen;
  SP_BOTH void operator()(index_t i, index_t j, index_t k) const { ++seen(i, j, k); }
};
struct harmonic { // terms whose sum shows in which order they were added
  index_t sums;
  SP_BOTH float operator()(index_t i, index_t t) const { return 1.0F / float(1 + (t * 7919 + i % sums * 31) % 10007); }
};

/// Calls a kernel as one thread of its grid.
struct one_thread {
  std::uint32_t number;
  int threads;
  int thread() const { return int(number) % threads; }
  index_t index() const { return index_t(number) / threads; }
};
template <std::size_t Rank>
struct note {
  std::array<index_t, Rank>* at;
  template <class... I>
  void operator()(I... i) const {
    *at = {i...};
  }
};

} // namespace

TEST_CASE("cuda queue: a pass comes to every index once, in boxes of any shape [asan]") {
  place p;
  for (auto [a, b, c] : {std::array{1, 1, 1}, {7, 1, 300}, {5, 13, 11}, {1, 700, 1}, {3, 0, 4}}) {
    auto block = p.block<int>(std::vector<int>(std::size_t(a * b * c), 0));
    p.queue.for_each(std::array<index_t, 3>{a, b, c}, count{{block.tensor.data, {a, b, c}}});
    CHECK(p.read(block.tensor) == std::vector<int>(std::size_t(a * b * c), 1));
  }
  // more indices than one launch counts are several launches: here of 20
  std::array<index_t, 3> at{};
  std::set<std::array<index_t, 3>> seen;
  int launches = 0, calls = 0;
  using kernel = sp::detail::each_index<3, note<3>>;
  sp::detail::plan_indices(kernel{{}, {}, 0, {&at}}, std::array<index_t, 3>{9, 5, 7}, 20, [&](kernel const& k) {
    ++launches;
    for (std::uint32_t n = 0; n < k.indices + 5; ++n) {
      at = {-1, -1, -1};
      one_thread t{n, k.threads};
      k(t);
      if (at[0] >= 0) seen.insert(at), ++calls;
    }
  });
  CHECK((launches >= 16 && calls == 9 * 5 * 7 && seen.size() == 9 * 5 * 7));
  CHECK(*seen.rbegin() == std::array<index_t, 3>{8, 4, 6});
}

TEST_CASE("cuda queue: indices of passes with more than 2^31 of them") {
  std::array<index_t, 2> at{}, extents{70000, 70001};
  index_t all = 0, wrong = 0;
  using kernel = sp::detail::each_index<2, note<2>>;
  sp::detail::plan_indices(kernel{{}, {}, 0, {&at}}, extents, sp::detail::most_indices, [&](kernel const& k) {
    index_t const columns = k.extents[1].divisor;
    for (std::uint32_t n : {0u, 1u, 70001u, k.indices / 2, k.indices - 1}) {
      one_thread t{n, k.threads};
      k(t);
      wrong += at != std::array{k.first[0] + n / columns, k.first[1] + n % columns};
    }
    all += k.indices;
  });
  CHECK((all == extents[0] * extents[1] && wrong == 0));
}

TEST_CASE("cuda queue: a sum has the bits that its number of terms gives, however many sums there are [asan]") {
  place p;
  for (index_t terms : {0, 1, 5, 255, 257, 4096, 4097, 9000, 50000}) {
    index_t const many = terms > 4096 ? 0 : 40;
    auto one = p.block<float>(3), all = p.block<float>(many);
    using store = sp::detail::store_sum<float, device_memory>;
    p.queue.sums(3, terms, harmonic{3}, store{one.tensor});
    p.queue.sums(many, terms, harmonic{3}, store{all.tensor});
    auto const a = p.read(one.tensor), b = p.read(all.tensor);
    for (std::size_t i = 0; i < std::size_t(many); ++i) REQUIRE(a[i % 3] == b[i]);
    for (index_t i = 0; i < 3; ++i) {
      double truth = 0;
      for (index_t t = 0; t < terms; ++t) truth += double(harmonic{3}(i, t));
      CHECK(std::abs(double(a[std::size_t(i)]) - truth) <= 1e-6 * truth);
    }
    // on the lane each sum has one block; on the queue a few sums of many terms have one for each group of terms
    auto lane = p.block<float>(3);
    auto const ready = p.queue.record();
    p.queue.lane().wait(ready);
    p.queue.lane().sums(3, terms, harmonic{3}, store{lane.tensor});
    p.queue.wait(p.queue.lane().record());
    CHECK(p.read(lane.tensor) == a);
  }
}

TEST_CASE("cuda queue: lists of pieces are copied as the host copies them [asan]") {
  std::mt19937_64 g(3);
  auto between = [&](index_t a, index_t b) { return a + index_t(g() % std::uint64_t(b - a + 1)); };
  for (unsigned seed = 0; seed < 60; ++seed) {
    place p(seed);
    index_t const room = 3000, unit = seed % 8 == 7 ? 32 : seed % 4 == 3 ? 16 : 1; // some in stretches of 64 and 128 bytes
    std::vector<int> source = counted_from(1000, std::size_t(room)), result(std::size_t(room), -1);
    auto from = p.block(source), to = p.block(result);
    // pieces of disjoint rows: of whole rows, of parts of rows, and lists of rows
    std::vector<std::vector<sp::row_range>> rows(64);
    auto pieces = [&](int* data, int count, bool lists) {
      std::vector<piece> list;
      index_t at = 0;
      for (int i = 0; i < count && at + 72 * unit <= room; ++i) {
        index_t const n = between(1, 6), inner = between(1, 8) * unit, stride = inner + between(0, 4) * unit;
        piece one = sp::as_piece(sp::view<int, 2>(data + at, {n, inner}, {stride, 1}));
        if (lists && i % 3 == 1) {
          auto& r = rows[std::size_t(i)];
          r = {{0, 1, (n + 1) / 2}, {(n + 1) / 2, 1, n / 2}};
          one.rows = sp::row_list(r);
        }
        list.push_back(one);
        at += n * stride;
      }
      return list;
    };
    int const count = int(between(1, seed % 3 == 0 ? 60 : 4));
    auto const host_from = pieces(source.data(), count, seed % 2), host_to = pieces(result.data(), int(between(1, 40)), false);
    auto there = [](std::vector<piece> list, int const* host, int* device) {
      for (piece& x : list) x.data = reinterpret_cast<std::byte*>(device + (reinterpret_cast<int*>(x.data) - host));
      return list;
    };
    p.queue.copy(there(host_to, result.data(), to.tensor.data), there(host_from, source.data(), from.tensor.data));
    sp::copy(host_to, host_from);
    CHECK(p.read(to.tensor) == result);
  }
}

TEST_CASE("cuda queue: two threads that share a stretch move neighbouring words at each step [asan]") {
  struct alignas(16) words_of_four {
    int x[4];
  };
  std::size_t const stretches = 300; // of 128 bytes
  std::vector<words_of_four> from(8 * stretches), to(8 * stretches);
  std::uint32_t const nobody = 1000000;
  std::vector<std::uint32_t> movers(8 * stretches, nobody), expected(8 * stretches);
  for (std::uint32_t i = 0; i < from.size(); ++i) {
    from[i].x[0] = from[i].x[1] = from[i].x[2] = from[i].x[3] = int(i) + 1;
    expected[i] = i / 8 * 2 + i % 2;
  }
  auto piece_of = [](std::vector<words_of_four>& v) {
    return sp::as_piece(sp::view<int, 1>(v[0].x, {index_t(4 * v.size())}, {1}));
  };
  piece const source[]{piece_of(from)}, target[]{piece_of(to)};
  using kernel = sp::detail::copy_few;
  sp::detail::plan_copies<kernel>(sp::detail::block_cursor(target), sp::detail::block_cursor(source), [&](kernel const& k) {
    CHECK(k.blocks() == 3);
    for (std::uint32_t n = 0; n < std::uint32_t(k.blocks() * k.threads); ++n) {
      one_thread t{n, k.threads};
      k(t);
      for (std::size_t i = n / 2 * 8, end = std::min(i + 8, to.size()); i < end; ++i)
        if (movers[i] == nobody && to[i].x[0] == from[i].x[0] && to[i].x[3] == from[i].x[3]) movers[i] = n;
    }
  });
  CHECK(movers == expected);
}

TEST_CASE("cuda queue: what is plain is one copy of the runtime, and the host's memory may be strided [asan]") {
  place p;
  auto a = p.block(counted_from(0, 8000)), b = p.block(std::vector<int>(8000, -1));
  auto move = [&](piece const& to, piece const& from) {
    long const plain = fake_cuda::calls("cudaMemcpyAsync"), rows = fake_cuda::calls("cudaMemcpy2DAsync");
    p.queue.copy({&to, 1}, {&from, 1});
    return std::pair(fake_cuda::calls("cudaMemcpyAsync") - plain, fake_cuda::calls("cudaMemcpy2DAsync") - rows);
  };
  using counts = std::pair<long, long>;
  auto rows = [](int* data, index_t n, index_t inner, index_t stride) {
    return sp::as_piece(sp::view<int, 2, device_memory>(data, {n, inner}, {stride, 1}));
  };
  CHECK(move(rows(b.tensor.data, 10, 10, 10), rows(a.tensor.data, 5, 20, 20)) == counts{1, 0});
  CHECK(move(rows(b.tensor.data, 3, 1024, 1040), rows(a.tensor.data, 3, 1024, 1030)) == counts{0, 1});
  CHECK(move(rows(b.tensor.data, 3 * 1024, 1, 1), rows(a.tensor.data, 3, 1024, 1030)) == counts{0, 1}); // one run against rows
  CHECK(move(rows(b.tensor.data, 3, 1023, 1040), rows(a.tensor.data, 3, 1023, 1030)) == counts{0, 0});  // short rows: a kernel
  CHECK(move(rows(b.tensor.data, 3, 4, 5), rows(a.tensor.data, 4, 3, 4)) == counts{0, 0});              // rows of other lengths
  CHECK(move(rows(b.tensor.data + 30, 5, 2, -4), rows(a.tensor.data, 5, 2, 3)) == counts{0, 0});        // backwards
  p.queue.synchronize();
  std::vector<int> host(40, -7);
  piece const to = sp::as_piece(sp::view<int, 3>(host.data(), {2, 3, 2}, {20, 5, 2})), from = rows(a.tensor.data, 3, 4, 8);
  p.queue.copy({&to, 1}, {&from, 1});
  p.queue.synchronize();
  std::vector<int> expected(40, -7);
  int n = 0;
  for (int x = 0; x < 2; ++x)
    for (int y = 0; y < 3; ++y)
      for (int z = 0; z < 2; ++z, ++n) expected[std::size_t(20 * x + 5 * y + 2 * z)] = n / 4 * 8 + n % 4;
  CHECK(host == expected);
}

TEST_CASE("cuda queue: uploaded bytes may change at once, however late the device reads them [asan]") {
  place p(5, interleaving::lane_last);
  constexpr std::size_t half = sp::detail::cuda_staging::half_bytes, n = half / 4 / 3;
  std::vector<sp::owned<int, 1, device_memory>> blocks;
  for (int i = 0; i < 5; ++i) blocks.push_back(p.block<int>(index_t(n)));
  {
    fake_cuda::hold const nothing_runs{p.handle}; // both halves of the staging memory, and no more: nobody waits
    std::vector<int> values;
    for (int i = 0; i < 5; ++i) {
      values = counted_from(i * 1000, n);
      p.queue.upload(reinterpret_cast<std::byte*>(blocks[std::size_t(i)].tensor.data), std::as_bytes(std::span(values)));
      std::fill(values.begin(), values.end(), -1);
    }
  }
  for (int i = 0; i < 5; ++i) CHECK(p.read(blocks[std::size_t(i)].tensor) == counted_from(i * 1000, n));
  // more than there is room for: parts wait for the device
  auto large = p.block<int>(index_t(half)), after = p.block(counted_from(9, 10));
  auto const many = counted_from(77, half);
  for (int again = 0; again < 2; ++again) {
    p.queue.upload(reinterpret_cast<std::byte*>(large.tensor.data), std::as_bytes(std::span(many)));
    CHECK(p.read(large.tensor) == many);
  }
  CHECK(p.read(after.tensor) == counted_from(9, 10));
}

TEST_CASE("cuda queue: the lane works behind what it waits for, and shows where it does not [asan]") {
  int missed = 0;
  for (bool waits : {true, false})
    for (auto how : {interleaving::lane_last, interleaving::lane_first}) {
      place p(11, how);
      auto x = p.block(std::vector<int>(8, 1));
      auto const lane = p.queue.lane();
      CHECK((lane != p.queue && lane == p.queue.lane() && lane.lane() == lane));
      p.queue.synchronize();
      p.queue.for_each(std::array<index_t, 1>{8}, set{x.tensor, 5});
      if (waits) lane.wait(p.queue.record());
      lane.for_each(std::array<index_t, 1>{8}, increase{x.tensor});
      if (waits) p.queue.wait(lane.record());
      auto const got = p.read(x.tensor);
      if (waits)
        CHECK(got == std::vector<int>(8, 6));
      else
        missed += got != std::vector<int>(8, 6);
      lane.synchronize();
    }
  CHECK(missed == 2);
}

TEST_CASE("cuda queue: events are used again once nobody holds them, also by others, after their queue is gone") {
  auto const before = fake_cuda::alive();
  {
    stream s(1), t(2);
    std::vector<cuda_queue::event> kept;
    std::optional<cuda_queue> other;
    {
      cuda_queue const q(s.handle), r(t.handle);
      auto x = sp::owned<int, 1, device_memory>();
      for (int i = 0; i < 50; ++i) {
        auto const e = q.record();
        r.wait(e);
        q.wait(r.record());
      }
      CHECK(fake_cuda::alive().events - before.events <= 2 + 4); // one a queue, and two for what it uploads
      for (int i = 0; i < 10; ++i) kept.push_back(q.record());
      std::thread([copies = kept] { CHECK(copies.size() == 10); }).join();
      other = r;
    }
    for (auto const& e : kept) other->wait(e);
    other->wait({});
    other->synchronize();
    kept.clear();
    other.reset();
  }
  CHECK(fake_cuda::alive() == before);
}

TEST_CASE("cuda queue: work is given on its own device, whichever is current; ranks of two devices wait for each other [asan]") {
  place a(1, interleaving::random, 0), b(2, interleaving::random, 1);
  CHECK((a.queue.device() == 0 && b.queue.device() == 1 && a.queue.stream() == a.handle));
  auto x = a.block(counted_from(1, 20));
  auto y = b.block(std::vector<int>(20, 0));
  b.queue.wait(a.queue.record());
  piece const to = sp::as_piece(y.tensor), from = sp::as_piece(x.tensor);
  b.queue.copy({&to, 1}, {&from, 1});
  b.queue.for_each(std::array<index_t, 1>{20}, increase{y.tensor});
  CHECK(b.read(y.tensor) == counted_from(2, 20));
  int device = -1;
  CHECK((cudaGetDevice(&device) == cudaSuccess && device == 0)); // as before
  {
    auto const here = b.queue.make_current();
    CHECK((cudaGetDevice(&device) == cudaSuccess && device == 1));
  }
  CHECK((cudaGetDevice(&device) == cudaSuccess && device == 0));
  stream s(3, interleaving::random, 1);
  auto const wrong = failure_of([&] { static_cast<void>(cuda_queue(s.handle, 0).record()); });
  CHECK(says(wrong, errc::backend_error, "cudaEventRecord: cudaErrorInvalidResourceHandle"));
  CHECK(wrong.primitive == "cuda_queue.record");
  CHECK(wrong.remedy.find("name the device") != std::string::npos);
}

TEST_CASE("cuda queue: every call of the runtime that fails is named, with its code, where it happened and what to do [asan]") {
  place p;
  auto x = p.block(counted_from(0, 3000));
  auto y = p.block(counted_from(0, 3000));
  stream other(9);
  cuda_queue const second(other.handle);
  piece const to = sp::as_piece(y.tensor), from = sp::as_piece(x.tensor);
  piece narrow = to, wide = from;
  narrow.rank = wide.rank = 2;
  narrow.extents = {2, 1024}, narrow.strides = {4096, 4};
  wide.extents = {2, 1024}, wide.strides = {5000, 4};
  auto const bytes = std::as_bytes(std::span("1234567"));
  struct {
    char const* call;
    char const* primitive;
    std::function<void()> f;
  } const cases[] = {
      {"cudaGetDevice", "cuda_queue.record", [&] { static_cast<void>(p.queue.record()); }},
      {"cudaStreamGetCaptureInfo", "cuda_queue.record", [&] { static_cast<void>(p.queue.record()); }},
      {"cudaEventRecord", "cuda_queue.record", [&] { static_cast<void>(p.queue.record()); }},
      {"cudaStreamWaitEvent", "cuda_queue.wait", [&] { p.queue.wait(second.record()); }},
      {"cudaStreamSynchronize", "cuda_queue.synchronize", [&] { p.queue.synchronize(); }},
      {"cudaMemcpyAsync", "cuda_queue.copy",
       [&] {
         p.queue.copy({&to, 1}, {&from, 1});
       }},
      {"cudaMemcpy2DAsync", "cuda_queue.copy",
       [&] {
         p.queue.copy({&narrow, 1}, {&wide, 1});
       }},
      {"cudaPointerGetAttributes", "cuda_queue.copy",
       [&] {
         p.queue.copy({&narrow, 1}, {&from, 1});
       }},
      {"cudaLaunchKernelEx", "cuda_queue.launch", [&] { p.queue.for_each(std::array<index_t, 1>{30}, increase{y.tensor}); }},
      {"cudaMemcpyAsync", "cuda_queue.upload", [&] { p.queue.upload(to.data, bytes); }},
      {"cudaEventRecord", "cuda_queue.upload", [&] { p.queue.upload(to.data, bytes); }},
      {"cudaMallocFromPoolAsync", "device_pool", [&] { p.memory.allocate(64); }},
      {"cudaMemPoolCreate", "device_pool", [&] { sp::device_pool(p.queue); }},
      {"cudaMemPoolSetAccess", "device_pool", [&] { sp::device_pool(p.queue); }},
      {"cudaStreamCreateWithPriority", "cuda_queue", [&] { cuda_queue(p.handle, 0); }},
      {"cudaMallocAsync", "cuda_queue", [&] { cuda_queue(p.handle, 0); }},
      {"cudaHostAlloc", "cuda_queue", [&] { cuda_queue(p.handle, 0); }},
      {"cudaDeviceGetAttribute", "cuda_queue", [&] { cuda_queue(p.handle, 0); }},
  };
  auto const before = fake_cuda::alive();
  for (auto const& c : cases) {
    INFO(c.call << " in " << c.primitive);
    fake_cuda::fail_call(c.call, cudaErrorMemoryAllocation);
    auto const e = failure_of(c.f);
    CHECK(says(e, errc::backend_error, std::string(c.call) + ": cudaErrorMemoryAllocation"));
    CHECK((e.primitive == c.primitive && e.remedy.find("scratch_bytes()") != std::string::npos));
    CHECK(cudaPeekAtLastError() == cudaSuccess); // told by us, and not once more by the caller's next look
  }
  CHECK(fake_cuda::alive().streams == before.streams);
  CHECK(fake_cuda::alive().pools == before.pools);
  p.queue.copy({&to, 1}, {&from, 1}); // goes on as if nothing had been
  CHECK(p.read(y.tensor) == counted_from(0, 3000));
}

TEST_CASE("cuda queue: work that fails on the device is reported by synchronize() and by the next call") {
  place p;
  auto x = p.block(counted_from(0, 30));
  p.queue.synchronize();
  struct failing {
    SP_BOTH void operator()(index_t i) const {
      if (i == 3) throw std::runtime_error("planted: as a kernel that touches a wrong address");
    }
  };
  p.queue.for_each(std::array<index_t, 1>{8}, failing{});
  auto const e = failure_of([&] { p.queue.synchronize(); });
  CHECK(says(e, errc::backend_error, "cudaStreamSynchronize: cudaErrorLaunchFailure"));
  CHECK(e.remedy.find("compute-sanitizer") != std::string::npos);
  CHECK(says(failure_of([&] { return p.queue.record(); }), errc::backend_error, "cudaEventRecord: cudaErrorLaunchFailure"));
  CHECK(says(failure_of([&] { return p.memory.allocate(8); }), errc::backend_error, "cudaErrorLaunchFailure"));
  fake_cuda::fail_device(cudaSuccess);
  CHECK(p.read(x.tensor) == counted_from(0, 30));
}

} // namespace test_queue
