// What goes wrong with sp::nccl: peers that do not come, errors of NCCL and of the device, aborts, and wrong use.
// Over a fake of NCCL and of the runtime; the host never waits for a peer, and each failure says who, what and what to do.
// needs: context cuda nccl
// with all: takes long to compile
#include <doctest/doctest.h>

#include "support/nccl_ranks.hpp"

#include <sp/collective/check/agreement.hpp>

#include "support/failure.hpp"

namespace test_nccl_failures {

using sp::errc;
using sp::index_t;
using sp::nccl;
using std::chrono::milliseconds;
using support::failure_of;
using support::run_nccl;
using support::says;
using place = support::nccl_place;

/// A row to the next rank and one from the one before, as raw parcels.
struct round_trip {
  sp::owned<float, 2, sp::device_memory> x;
  sp::piece out, in;
  sp::parcel to, from;
  explicit round_trip(place& here, nccl const& c)
      : x(here.tensor<float>(2, 4, float(10 * c.rank()))), out(sp::as_piece(x.tensor.rows(0, 1))),
        in(sp::as_piece(x.tensor.rows(1, 1))), to{(c.rank() + 1) % c.size(), {&out, 1}}, from{(c.rank() + c.size() - 1) %
                                                                                                  c.size(),
                                                                                              {&in, 1}} {}
  round_trip(round_trip const&) = delete;
  sp::traffic traffic(char const* name = "test") const { return {name, {&to, 1}, {&from, 1}}; }
};

sp::error_info polled(nccl const& c) {
  auto const end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (std::chrono::steady_clock::now() < end) {
    try {
      c.poll();
    } catch (sp::error const& e) {
      return e.info();
    }
    std::this_thread::yield();
  }
  FAIL("poll() has found nothing");
  return {};
}

TEST_CASE("nccl failures: a peer that does not come is a timeout of poll(), and the host has waited for nobody [asan]") {
  sp::nccl_options options;
  options.deadline = milliseconds(150);
  run_nccl(
      3,
      [&](nccl const& c, ncclComm_t comm) {
        place here(c);
        round_trip trip(here, c);
        if (c.rank() == 2) return;                                        // it never makes the exchange
        sp::exchange(c, trip.traffic("ring.forward"), here.queue).wait(); // returns although nobody will come
        c.poll();
        CHECK(cudaPeekAtLastError() == cudaSuccess); // "not ready" is not left for the trainer to find
        sp::error_info const e = polled(c);
        CHECK(says(e, errc::timeout, "no answer within 150 ms", c.rank() == 0 ? "ranks 2, 1" : "ranks 0, 2",
                   "has begun on this rank's device"));
        CHECK(e.primitive == "ring.forward");
        CHECK(e.rank == c.rank());
        CHECK(e.step == 0);
        CHECK(says(failure_of([&] { return sp::exchange(c, trip.traffic(), here.queue); }), errc::aborted, "no answer within"));
        auto const records = c.flight().snapshot();
        REQUIRE(records.size() == 1);
        CHECK(records[0].state == sp::operation_state::waiting);
        CHECK(records[0].bytes_out == 16);
        CHECK(fake_nccl::is_alive(comm)); // nobody has asked for an abort
        c.abort({errc::aborted, "the test is over"});
        CHECK(fake_nccl::was_aborted(comm));
        here.queue.synchronize(); // what waited has ended
        CHECK_THROWS_AS(c.poll(), sp::error);
      },
      {.options = options});
}

TEST_CASE("nccl failures: work before an exchange does not count for its deadline") {
  sp::nccl_options options;
  options.deadline = milliseconds(50);
  run_nccl(2,
           [&](nccl const& c, ncclComm_t) {
             place here(c);
             round_trip trip(here, c);
             fake_cuda::hold work_that_takes_long({here.queue.stream()});
             sp::exchange(c, trip.traffic(), here.queue).wait();
             for (auto const end = std::chrono::steady_clock::now() + milliseconds(150); std::chrono::steady_clock::now() < end;)
               c.poll();
             work_that_takes_long.end();
             here.queue.synchronize();
             c.poll();
           },
           {.options = options});
}

TEST_CASE("nccl failures: where the options say so a failure aborts the communicator, and a thread finds it [asan]") {
  sp::nccl_options options;
  options.deadline = milliseconds(100);
  options.abort_on_failure = options.watch = true;
  run_nccl(2,
           [&](nccl const& c, ncclComm_t comm) {
             place here(c);
             round_trip trip(here, c);
             if (c.rank() == 1) {
               c.abort({errc::bad_state, "rank 1 does not feel well"});
               CHECK(says(failure_of([&] { return sp::exchange(c, trip.traffic(), here.queue); }), errc::aborted,
                          "rank 1 of 2 failed", "does not feel well"));
               return;
             }
             sp::exchange(c, trip.traffic(), here.queue).wait();
             here.queue.synchronize(); // for ever, if nobody aborted
             CHECK(fake_nccl::was_aborted(comm));
             CHECK(says(failure_of([&] { return sp::exchange(c, trip.traffic(), here.queue); }), errc::timeout,
                        "no answer within 100 ms"));
           },
           {.options = options});
}

TEST_CASE("nccl failures: an exchange is done in the flight record when its end has been seen") {
  run_nccl(2, [&](nccl const& c, ncclComm_t) {
    place here(c);
    round_trip trip(here, c);
    for (int i = 0; i < 3; ++i) sp::exchange(c, trip.traffic("test"), here.queue).wait();
    here.queue.synchronize();
    c.poll();
    for (auto const& r : c.flight().snapshot()) CHECK(r.state == sp::operation_state::done);
    CHECK(c.flight().recorded() == 3);
  });
}

TEST_CASE("nccl failures: an asynchronous error of NCCL is told by poll() and by the calls behind it") {
  run_nccl(2, [&](nccl const& c, ncclComm_t comm) {
    place here(c);
    round_trip trip(here, c);
    sp::exchange(c, trip.traffic("test"), here.queue).wait();
    here.queue.synchronize();
    c.poll();
    fake_nccl::set_async_error(comm, ncclSystemError);
    CHECK(says(failure_of([&] {
                 c.poll();
                 return 0;
               }),
               errc::backend_error, "asynchronous error", "unhandled system error"));
    CHECK(says(failure_of([&] { return sp::exchange(c, trip.traffic("later"), here.queue); }), errc::aborted, "asynchronous"));
  });
}

/// Rank 0 of two, whose peer is not there: one thread is enough for what is refused.
struct half_pair {
  ncclComm_t comms[2]{};
  support::own_stream stream{};
  sp::cuda_queue queue{stream.get(), 0};
  explicit half_pair(std::array<int, 2> devices = {0, 0}) {
    fake_nccl::forget_complaints();
    REQUIRE(ncclCommInitAll(comms, 2, devices.data()) == ncclSuccess);
  }
  half_pair(half_pair const&) = delete;
  ~half_pair() {
    for (ncclComm_t c : comms)
      if (fake_nccl::is_alive(c)) CHECK(ncclCommDestroy(c) == ncclSuccess); // sp has not
    CHECK(fake_nccl::complaints().empty());
  }
  sp::error_info refused_by(sp::nccl_options options = {}, ncclComm_t comm = nullptr) {
    return failure_of([&] { return nccl(comm ? comm : comms[0], queue, options); });
  }
};
template <class F>
sp::error_info thrown_by(F&& call) {
  return failure_of([&] { return call(), 0; });
}

TEST_CASE("nccl failures: a call of NCCL that fails is named, and nothing of its group is started") {
  for (char const* call : {"ncclGroupStart", "ncclSend", "ncclRecv", "ncclGroupEnd"}) {
    half_pair pair;
    nccl const c(pair.comms[0], pair.queue);
    place here(c);
    round_trip trip(here, c);
    fake_nccl::fail_call(call, ncclInternalError);
    auto const e = failure_of([&] { return sp::exchange(c, trip.traffic(), here.queue); });
    CHECK(says(e, errc::backend_error, call, "internal error"));
    CHECK(e.primitive == "test");
    CHECK(e.rank == 0);
    CHECK(fake_nccl::given(pair.comms[0]).groups == 0);
    CHECK(says(failure_of([&] { return sp::exchange(c, trip.traffic(), here.queue); }), errc::aborted, "internal error"));
    here.queue.synchronize(); // nothing hangs there
  }
}

TEST_CASE("nccl failures: what the runtime refuses in an exchange goes on to the caller and ends the family") {
  for (char const* call : {"cudaEventRecord", "cudaStreamWaitEvent"}) {
    half_pair pair;
    nccl const c(pair.comms[0], pair.queue);
    place here(c);
    round_trip trip(here, c);
    fake_cuda::fail_call(call, cudaErrorIllegalAddress);
    CHECK(says(failure_of([&] { return sp::exchange(c, trip.traffic(), here.queue); }), errc::backend_error, call));
    CHECK(says(failure_of([&] { return sp::exchange(c, trip.traffic(), here.queue); }), errc::aborted,
               "in the middle of an operation"));
  }
  half_pair pair; // a device that has failed
  nccl const c(pair.comms[0], pair.queue);
  place here(c);
  round_trip trip(here, c);
  sp::exchange(c, trip.traffic(), here.queue).wait();
  fake_cuda::fail_device(cudaErrorIllegalAddress);
  CHECK(says(thrown_by([&] { c.poll(); }), errc::backend_error, "the device reports cudaErrorIllegalAddress"));
  fake_cuda::fail_device(cudaSuccess);
  c.abort({});
}

TEST_CASE("nccl failures: a communicator that is not alive, of another device, or too old is refused in a sentence") {
  half_pair pair, elsewhere({1, 1});
  CHECK(says(failure_of([&] { return nccl(nullptr, pair.queue); }), errc::bad_state, "null ncclComm_t"));
  CHECK(says(elsewhere.refused_by(), errc::bad_state, "the communicator is on device 1, the queue on device 0"));
  CHECK(says(pair.refused_by({.deadline = milliseconds(0)}), errc::bad_state, "a deadline of 0 ms"));
  fake_nccl::set_async_error(pair.comms[0], ncclSystemError);
  CHECK(says(pair.refused_by(), errc::backend_error, "the communicator cannot be used", "system error"));
  fake_nccl::set_version(2700);
  CHECK(says(pair.refused_by({}, pair.comms[1]), errc::unsupported, "NCCL 2.7.0 was found"));
  fake_nccl::set_version(0);
}

TEST_CASE("nccl failures: what one rank does wrong alone is refused before anything is sent") {
  half_pair pair;
  nccl const c(pair.comms[0], pair.queue);
  place here(c);
  round_trip trip(here, c);
  auto refused = [&](auto&& call, auto... texts) { CHECK(says(failure_of(call), errc::bad_state, texts...)); };
  support::own_stream stream;
  refused([&] { return sp::exchange(c, trip.traffic(), sp::cuda_queue(stream.get(), 0)); },
          "not the one on which this communicator works");
  sp::parcel const nobody{2, {&trip.out, 1}}, twice[] = {trip.to, trip.to};
  refused([&] { return sp::exchange(c, sp::traffic{"test", {&nobody, 1}, {}}, here.queue); }, "names peer 2");
  refused([&] { return sp::exchange(c, sp::traffic{"test", twice, {}}, here.queue); }, "two parcels");
  CHECK(fake_nccl::given(pair.comms[0]).groups == 0);

  sp::parcel const own{0, {&trip.out, 1}};
  std::vector<nccl::token> open; // bytes to oneself need no peer
  for (int i = 0; i < 8; ++i) open.push_back(sp::exchange(c, sp::traffic{"test", {&own, 1}, {&own, 1}}, here.queue));
  refused([&] { return sp::exchange(c, trip.traffic(), here.queue); }, "8 exchanges are open");
  for (nccl::token& t : open) t.wait();
  refused([&] { return open[0].wait(), 0; }, "has been waited for already");
  CHECK(says(failure_of([&] {
               return sp::exchange(c, sp::traffic{"test", {&own, 1}, {}}, here.queue);
             }),
             errc::short_message, "rank 0 sends 16 bytes, rank 0 expects 0"));
  CHECK(fake_nccl::given(pair.comms[0]).groups == 0);
}

TEST_CASE("nccl failures: a token that is dropped ends the family, and what the exchange uses is given back behind it [asan]") {
  run_nccl(2, [&](nccl const& c, ncclComm_t) {
    {
      place here(c);
      round_trip trip(here, c);
      static_cast<void>(sp::exchange(c, trip.traffic(), here.queue));
      CHECK(says(failure_of([&] { return sp::exchange(c, trip.traffic(), here.queue); }), errc::aborted,
                 "destroyed without wait()"));
    }
    c.queue().synchronize();
  });
}

TEST_CASE("nccl failures: ranks that differ are told by their fingerprints, which travel as operands") {
  run_nccl(3, [&](nccl const& c, ncclComm_t) {
    place here(c);
    auto compare = [&](index_t tokens) {
      sp::fingerprint f("test", ".call", c.rank());
      f.number("tokens", tokens);
      sp::agree(c, f, here.ctx);
    };
    compare(7);
    CHECK(says(thrown_by([&] { compare(c.rank() == 1 ? 8 : 7); }), errc::rank_mismatch,
               "rank 1 differs from ranks 0, 2 in tokens"));
    compare(9); // nothing is left half done
  });
}

TEST_CASE("nccl failures: calls that wait for a peer to connect are found by a thread, and an abort ends them [asan]") {
  sp::nccl_options options;
  options.deadline = milliseconds(100);
  options.abort_on_failure = options.watch = true;
  run_nccl(3,
           [&](nccl const& c, ncclComm_t comm) {
             place here(c);
             round_trip trip(here, c);
             if (c.rank() == 2) return; // it never comes
             fake_nccl::never_connect(comm);
             auto const e = failure_of([&] { return sp::exchange(c, trip.traffic("ring.forward"), here.queue); });
             CHECK(says(e, errc::timeout, "no answer within 100 ms: calls of NCCL with",
                        c.rank() == 0 ? "ranks 2, 1" : "ranks 0, 2", "have not returned"));
             CHECK(e.primitive == "ring.forward");
             CHECK(fake_nccl::was_aborted(comm));
             here.queue.synchronize();
           },
           {.options = options});
}

TEST_CASE("nccl failures: a communicator that does not block is asked until it is made, or refused at the deadline") {
  half_pair pair;
  fake_nccl::still_made(pair.comms[0], 3);
  CHECK(nccl(pair.comms[0], pair.queue).size() == 2);
  fake_nccl::still_made(pair.comms[1], 1 << 30);
  CHECK(says(pair.refused_by({.deadline = milliseconds(20)}, pair.comms[1]), errc::timeout, "still being made"));
  fake_nccl::still_made(pair.comms[1], 0);
}

TEST_CASE("nccl failures: a communicator that does not block is asked until it has taken the calls") {
  run_nccl(2, [&](nccl const& c, ncclComm_t comm) {
    place here(c);
    round_trip trip(here, c);
    fake_nccl::do_not_block(comm, 5);
    sp::exchange(c, trip.traffic(), here.queue).wait();
    CHECK(here.read(trip.x.tensor)[4] == float(10 * (1 - c.rank())));
    c.poll();
  });
}

} // namespace test_nccl_failures
