// sp::native_sums over fakes of NCCL and of the runtime: sums in one call of NCCL, over exactly the ranks of a group.
// The fake adds in an order that is not that of ranks; what is promised is the sum within rounding, and the same bits everywhere.
// needs: context cuda nccl
// with all: takes long to compile
#include <doctest/doctest.h>

#include <barrier>
#include <optional>

#include "cuda/place.hpp"
#include "support/nccl_ranks.hpp"

#include <sp/collective/reductions.hpp>
#include <sp/mesh/mesh.hpp>

#include "support/failure.hpp"

namespace test_nccl_sums {

using sp::errc;
using sp::index_t;
using sp::nccl;
using support::failure_of;
using support::run_nccl;
using support::says;
using place = support::nccl_place;
template <class T>
using values = sp::view<T, 1, sp::device_memory>;

static_assert(sp::communicator<sp::native_sums<nccl>> && sp::has_own_queue<sp::native_sums<nccl>> &&
              sp::packs_messages<sp::native_sums<nccl>> && sp::has_all_reduce<sp::native_sums<nccl>, float> &&
              sp::has_all_reduce<sp::native_sums<sp::group<nccl>>, std::int64_t> && !sp::has_all_reduce<nccl, float> &&
              sp::has_all_reduce<sp::native_sums<nccl>, sp::bf16> && sp::has_all_reduce<sp::native_sums<nccl>, sp::fp16> &&
              !sp::has_all_reduce<nccl, sp::bf16> && !sp::has_all_reduce<sp::cuda_local, sp::bf16> &&
              !sp::has_all_reduce<sp::native_sums<nccl>, short> && !sp::has_reduce_scatter<sp::native_sums<nccl>, float>);

namespace {

/// Row 0 of n columns, every `step`-th, added up by the group; its values are told by rank of the communicator.
template <class T, class Sums>
void add_up(Sums const& sums, nccl const& c, place& here, std::vector<int> const& members, index_t n, index_t step) {
  auto const x = here.tensor<T>(1, n * step, T(c.rank() * 10));
  values<T> const some(x.tensor.data, {n}, {step});
  sp::all_reduce(sums, some, here.ctx).wait();
  auto const got = here.read(x.tensor);
  for (index_t i = 0; i < n * step; ++i) {
    double want = 0;
    for (int r : members) want += r * 10 + double(i);
    if (i % step != 0) want = c.rank() * 10 + double(i); // not touched
    CHECK(double(got[std::size_t(i)]) == want);          // all of them are exact
  }
}

/// What a rank of the communicator has after a sum of numbers that round, by rank.
struct by_rank {
  std::vector<std::vector<float>> of{std::vector<std::vector<float>>(8)};
};

} // namespace

TEST_CASE("nccl sums: one call of NCCL over the ranks of a group, whatever its order, types and strides [asan]") {
  int const before = fake_nccl::alive();
  for (int ranks : {1, 2, 6}) {
    by_rank rounded;
    run_nccl(ranks,
             [&](nccl const& c, ncclComm_t comm) {
               place here(c);
               sp::mesh const mesh{sp::axis::ring{ranks > 1 ? 2 : 1}, sp::axis::ulysses{ranks > 1 ? ranks / 2 : 1}};
               std::vector<int> all(std::size_t(ranks), 0);
               std::iota(all.begin(), all.end(), 0);
               sp::native_sums const everybody{c};
               auto const given = fake_nccl::given(comm);
               add_up<float>(everybody, c, here, all, 300, 1);
               add_up<double>(everybody, c, here, all, 5, 3); // packed
               CHECK(fake_nccl::given(comm).sums == given.sums + 2);
               CHECK(fake_nccl::given(comm).sends == given.sends);
               add_up<sp::bf16>(everybody, c, here, all, 4, 1);
               add_up<sp::fp16>(everybody, c, here, all, 5, 2);
               CHECK(fake_nccl::given(comm).sums == given.sums + 4);
               add_up<short>(everybody, c, here, all, 4, 1); // which NCCL does not add: by the fallback
               CHECK(fake_nccl::given(comm).sums == given.sums + 4);
               sp::native_sums const ring{mesh.ring(c)}, ulysses{mesh.ulysses(c)};
               add_up<std::int32_t>(ring, c, here, mesh.members(c.rank(), {sp::axis_kind::ring}), 4, 1);
               add_up<std::int64_t>(ulysses, c, here, mesh.members(c.rank(), {sp::axis_kind::ulysses}), 3, 2);
               add_up<float>(sp::native_sums{c.split(0, -c.rank())}, c, here, all, 2, 1); // all ranks in another order
               auto const copy = ring;
               add_up<double>(copy, c, here, mesh.members(c.rank(), {sp::axis_kind::ring}), 300, 1);
               auto const x = here.tensor<float>(1, 9, 0.1F * float(c.rank() + 1));
               sp::all_reduce(everybody, values<float>(x.tensor.data, {9}), here.ctx).wait();
               rounded.of[std::size_t(c.rank())] = here.read(x.tensor);
               sp::barrier(ring, here.ctx).wait(); // all else is as inside
               CHECK(ring.inner().inner().world_rank() == c.rank());
             },
             {.seed = unsigned(ranks)});
    for (int r = 1; r < ranks; ++r) CHECK(rounded.of[std::size_t(r)] == rounded.of[0]);
  }
  CHECK(fake_nccl::alive() == before);
}

TEST_CASE("nccl sums: a graph replays them on what the tensors hold then") {
  run_nccl(4, [](nccl const& c, ncclComm_t) {
    place here(c);
    sp::mesh const mesh{sp::axis::ring{2}, sp::axis::ulysses{2}};
    sp::native_sums const sums{mesh.ulysses(c)};
    auto const x = here.tensor<float>(1, 4, 0);
    auto step = [&] { sp::all_reduce(sums, values<float>(x.tensor.data, {4}), here.ctx).wait(); };
    step();
    here.queue.synchronize();
    c.poll();
    cuda_tests::graph const captured(here.queue.stream(), step, cudaStreamCaptureModeThreadLocal);
    REQUIRE(captured.end() == cudaSuccess);
    for (int launch = 1; launch < 3; ++launch) {
      std::vector<float> const now(4, float(10 * launch + c.rank()));
      here.queue.upload(reinterpret_cast<std::byte*>(x.tensor.data), std::as_bytes(std::span(now)));
      captured.launch(here.queue.stream());
      CHECK(here.read(x.tensor)[3] == float(20 * launch + 2 * (c.rank() / 2 * 2) + 1));
    }
  });
}

TEST_CASE("nccl sums: none are made in a capture, with tokens open, or by an old library; the sentence says so") {
  std::barrier together(2);
  run_nccl(2, [&](nccl const& c, ncclComm_t comm) {
    place here(c);
    auto const x = here.tensor<float>(2, 4, 0);
    nccl const alone = c.split(c.rank(), 0);
    auto refused = [&](errc code, auto... texts) {
      CHECK(says(failure_of([&] { return sp::native_sums{alone}; }), code, texts...));
    };
    sp::piece const own = sp::as_piece(x.tensor.rows(0, 1)), to = sp::as_piece(x.tensor.rows(1, 1));
    sp::parcel const out{c.rank(), {&own, 1}}, in{c.rank(), {&to, 1}};
    auto open = sp::exchange(c, sp::traffic{"test", {&out, 1}, {&in, 1}}, here.queue);
    refused(errc::bad_state, "1 tokens have not been waited for");
    open.wait();
    here.queue.synchronize();
    together.arrive_and_wait();
    REQUIRE(cudaStreamBeginCapture(here.queue.stream(), cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    refused(errc::bad_state, "a graph is being captured");
    cudaGraph_t none = nullptr;
    if (cudaStreamEndCapture(here.queue.stream(), &none) == cudaSuccess) cudaGraphDestroy(none);
    together.arrive_and_wait();
    if (c.rank() == 0) fake_nccl::set_version(21703);
    together.arrive_and_wait();
    {
      nccl const old(comm, here.queue);
      CHECK(
          says(failure_of([&] { return sp::native_sums{old.split(c.rank(), 0)}; }), errc::unsupported, "NCCL 2.17.3 was found"));
    }
    together.arrive_and_wait();
    if (c.rank() == 0) fake_nccl::set_version(2904);
    together.arrive_and_wait();
    sp::native_sums const old{nccl(comm, here.queue)};
    values<sp::bf16> const halves(reinterpret_cast<sp::bf16*>(x.tensor.data), {4});
    CHECK(says(failure_of([&] { return sp::all_reduce(old, halves, here.ctx); }), errc::unsupported,
               "sums of bf16 need NCCL 2.10.0, 2.9.4 was found"));
    sp::barrier(old, here.ctx).wait(); // nothing has ended
    here.queue.synchronize();          // two families use one communicator in turns
    together.arrive_and_wait();
    if (c.rank() == 0) fake_nccl::set_version(0);
    together.arrive_and_wait();
    sp::native_sums const sums{alone}; // nothing is left half done
    sp::all_reduce(sums, values<float>(x.tensor.data, {4}), here.ctx).wait();
    CHECK(here.read(x.tensor)[3] == 3);
    CHECK(fake_nccl::given(comm).sums == 0); // over its own
  });
}

TEST_CASE("nccl sums: a call of NCCL that fails is named; an abort ends the communicators of groups too") {
  int const before = fake_nccl::alive();
  std::barrier together(2);
  run_nccl(2,
           [&](nccl const& c, ncclComm_t) {
             place here(c);
             nccl const alone = c.split(c.rank(), 0);
             {
               sp::native_sums const sums{alone};
               CHECK(fake_nccl::alive() >= before + 3);
               together.arrive_and_wait();
               c.abort({errc::aborted, "enough"});
               auto const x = here.tensor<float>(1, 4, 0);
               CHECK(says(failure_of([&] { return sp::all_reduce(sums, values<float>(x.tensor.data, {4}), here.ctx); }),
                          errc::aborted, "enough"));
             }
             together.arrive_and_wait();
             CHECK(fake_nccl::alive() == before); // theirs and the borrowed ones
           },
           {.may_complain = true});
  run_nccl(2, [&](nccl const& c, ncclComm_t) {
    nccl const alone = c.split(c.rank(), 0);
    if (c.rank() == 0)
      fake_nccl::fail_call("ncclCommSplit", ncclSystemError), fake_nccl::patience(std::chrono::milliseconds(200));
    together.arrive_and_wait();
    CHECK(says(failure_of([&] { return sp::native_sums{alone}; }), errc::backend_error, "ncclCommSplit", "system error"));
    together.arrive_and_wait();
    if (c.rank() == 0) fake_nccl::patience(std::chrono::seconds(10));
    c.abort({});
  });
}

TEST_CASE("nccl sums: a communicator that does not block is split all the same, and a deadline leaves nothing behind [asan]") {
  int const before = fake_nccl::alive();
  run_nccl(3, [&](nccl const& c, ncclComm_t comm) {
    place here(c);
    nccl const part = c.split(c.rank() / 2, 0);
    fake_nccl::do_not_block(comm, 5);
    sp::native_sums const sums{part};
    auto const x = here.tensor<float>(1, 4, float(c.rank()));
    sp::all_reduce(sums, values<float>(x.tensor.data, {4}), here.ctx).wait();
    CHECK(here.read(x.tensor)[1] == 3); // 1 + 2, and 3 alone
    c.poll();
  });
  CHECK(fake_nccl::alive() == before);
  sp::nccl_options options;
  options.deadline = std::chrono::milliseconds(100);
  run_nccl(2,
           [&](nccl const& c, ncclComm_t comm) {
             nccl const part = c.split(c.rank(), 0);
             fake_nccl::do_not_block(comm, 1 << 30);
             CHECK(says(failure_of([&] { return sp::native_sums{part}; }), errc::timeout, "ncclCommSplit"));
             c.abort({}); // NCCL writes what it has made of it until then
           },
           {.options = options});
  CHECK(fake_nccl::alive() == before);
}

TEST_CASE("nccl sums: an abort tells every communicator before it waits for one, whichever is queued first") {
  std::barrier together(3);
  fake_nccl::patience(std::chrono::milliseconds(1500));
  for (bool sums_first : {false, true})
    run_nccl(3, [&](nccl const& c, ncclComm_t) {
      place here(c);
      sp::native_sums const sums{c.split(c.rank() / 2, 0)};
      auto const x = here.tensor<float>(2, 4, 0);
      if (c.rank() == 0) { // nobody meets it
        sp::piece const out = sp::as_piece(x.tensor.rows(0, 1));
        sp::parcel const to{2, {&out, 1}};
        auto add_up = [&] { sp::all_reduce(sums, values<float>(x.tensor.data, {4}), here.ctx).wait(); };
        if (sums_first) add_up();
        sp::exchange(c, sp::traffic{"test", {&to, 1}, {}}, here.queue).wait();
        if (!sums_first) add_up();
        c.abort({errc::aborted, "enough"});
        here.queue.synchronize(); // what waited has ended
      }
      together.arrive_and_wait();
    });
  fake_nccl::patience(std::chrono::seconds(10));
}

TEST_CASE("nccl sums: communicators end when the graphs of their sums have gone, and wait for that") {
  for (bool in_order : {true, false})
    run_nccl(2,
             [&](nccl const& c, ncclComm_t) {
               place here(c);
               std::optional sums{sp::native_sums{c.split(0, 0)}};
               std::optional part{sp::native_sums{c.split(c.rank(), 0)}};
               auto const x = here.tensor<float>(1, 4, 0);
               auto step = [&] {
                 sp::all_reduce(*sums, values<float>(x.tensor.data, {4}), here.ctx).wait();
                 sp::all_reduce(*part, values<float>(x.tensor.data, {4}), here.ctx).wait();
               };
               step();
               here.queue.synchronize();
               c.poll();
               if (!in_order && c.rank() == 0) fake_nccl::patience(std::chrono::milliseconds(100));
               std::optional<cuda_tests::graph> captured(std::in_place, here.queue.stream(), step,
                                                         cudaStreamCaptureModeThreadLocal);
               REQUIRE(captured->end() == cudaSuccess);
               std::thread end([&] {
                 part.reset();
                 c.abort({errc::aborted, "enough"});
               });
               std::this_thread::sleep_for(std::chrono::milliseconds(20));
               if (!in_order) end.join();
               captured.reset();
               if (in_order) end.join();
             },
             {.may_complain = !in_order});
  int told = 0;
  for (std::string const& complaint : fake_nccl::complaints())
    told += complaint.find("a graph that has captured its work is alive") != std::string::npos;
  CHECK(told == 4); // two communicators on two ranks
  fake_nccl::patience(std::chrono::seconds(10));
}

} // namespace test_nccl_sums
