// The checks of F15 themselves: each finds the fault it is for in a small program that has it, and nothing in one that has not.
// Without this, a check that looks at nothing would pass for every schedule.
#include <doctest/doctest.h>

#include "schedules/tracer.hpp"

namespace schedules::test_checks {
namespace {

event post(int number, std::vector<message> sends, std::vector<message> receives, int group = 0) {
  return {event::post, group, number, "x", std::move(sends), std::move(receives)};
}
event wait(int number, int group = 0) { return {event::wait, group, number, "x"}; }

/// A ring of `ranks` in which every rank sends 8 bytes to the next one.
program ring_of(int ranks) {
  program all;
  for (int r = 0; r < ranks; ++r) all.push_back({post(0, {{(r + 1) % ranks, 8}}, {{(r + ranks - 1) % ranks, 8}}), wait(0)});
  return all;
}

bool mentions(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

std::string everything(program const& p) {
  for (std::string const& s : {unmatched(p), disorder(p), deadlock(p, channel::posted), deadlock(p, channel::strict)})
    if (!s.empty()) return s;
  return {};
}

/// A ring attention with something planted, over as many ranks as the record has.
template <class Object>
study planted(int ranks, Object object, std::vector<index_t> lengths = {13, 6}) {
  return run(ranks, lengths, sp::zigzag{}, 2, 1, causal(), [=](record& all, int rank, tracer const& kernel) {
    rank_group world;
    for (int r = 0; r < ranks; ++r) world.members.push_back(r);
    return object(recorder(all, world, rank), kernel, rank);
  });
}

auto rotate(sp::mask mask = sp::causal()) { return sp::attention_options{.mask = mask, .schedule = sp::schedule::rotate}; }

/// Drops, repeats or misdirects what passes through: a communicator with one fault.
struct crooked : recorder {
  enum fault { none, other_bytes, early, other_peer } what = none;
  crooked(recorder r, fault f) : recorder(std::move(r)), what(f) {}
  [[nodiscard]] token exchange(sp::traffic const& t) const {
    if (what == early && std::string_view(t.primitive) == "ring.backward.gradients") // one more, of its own
      recorder::exchange({"extra", {}, {}}).wait();
    if (what == none || what == early || t.sends.empty()) return recorder::exchange(t);
    static sp::parcel changed[8]; // outlive the wait
    static int next = 0;
    sp::parcel& p = changed[next++ % 8];
    p = t.sends[0];
    if (what == other_bytes) p.pieces = p.pieces.first(1);
    if (what == other_peer) p.peer = (p.peer + 1) % size();
    return recorder::exchange({t.primitive, {&p, 1}, t.receives});
  }
};

/// A kernel that forgets its last block, or does it twice.
struct careless : tracer {
  bool twice;
  careless(tracer const& t, bool again) : tracer(t), twice(again) {}
  plan prepare(sp::problem const& p) const {
    plan list = tracer::prepare(p);
    if (!list.empty() && twice) list.push_back(list.back());
    if (!list.empty() && !twice) list.pop_back();
    return list;
  }
};

} // namespace

TEST_CASE("checks: a good ring passes") {
  for (int ranks : {1, 2, 3, 7}) CHECK(everything(ring_of(ranks)) == "");
  CHECK(most_open(ring_of(4)) == 1);
  CHECK(planted(4, [](recorder c, tracer k, int) { return sp::ring_attention{c, k, rotate()}; }).wrong == "");
}

TEST_CASE("checks: sends and receives that do not pair up") {
  program less = ring_of(3), more = ring_of(3), other = ring_of(3), alone = ring_of(3);
  less[1][0].receives[0].bytes = 4;
  more[1][0].sends.push_back({0, 8});
  other[2][0].primitive = "y";
  alone[0][0].sends.clear();
  CHECK(mentions(unmatched(less), "8 bytes from rank 0 to rank 1"));
  CHECK(mentions(unmatched(more), "from rank 1 to rank 0"));
  CHECK(mentions(unmatched(other), "alone"));
  CHECK(mentions(unmatched(alone), "the receive of 8 bytes from rank 0 to rank 1"));
}

TEST_CASE("checks: ranks of a group that do different things") {
  program late = ring_of(2);
  late[1].push_back(post(1, {}, {}));
  CHECK(mentions(disorder(late), "rank 1 does other things than rank 0"));
  program apart = ring_of(2);
  for (event& e : apart[1]) e.group = 1;
  CHECK(disorder(apart) == ""); // two groups
}

TEST_CASE("checks: deadlocks over channels without a slot") {
  // two exchanges in opposite order: fine where a post does not stop, a deadlock where it does
  program crossed(2);
  crossed[0] = {post(0, {{1, 8}}, {}, 0), post(0, {}, {{1, 8}}, 1), wait(0, 0), wait(0, 1)};
  crossed[1] = {post(0, {{0, 8}}, {}, 1), post(0, {}, {{0, 8}}, 0), wait(0, 1), wait(0, 0)};
  CHECK(unmatched(crossed) == "");
  CHECK(deadlock(crossed, channel::posted) == "");
  CHECK(mentions(deadlock(crossed, channel::strict), "rank 0, x, exchange 0 of group 0: waits for ever"));
  // each waits before it posts what the other waits for
  program chained(2);
  chained[0] = {post(0, {}, {{1, 8}}, 0), wait(0, 0), post(0, {{1, 8}}, {}, 1), wait(0, 1)};
  chained[1] = {post(0, {}, {{0, 8}}, 1), wait(0, 1), post(0, {{0, 8}}, {}, 0), wait(0, 0)};
  CHECK(mentions(deadlock(chained, channel::posted), "waits for ever"));
  // a peer that never comes, and a barrier that one rank leaves out
  program missing = ring_of(3);
  missing[2].clear();
  CHECK(mentions(deadlock(missing, channel::posted), "waits for ever"));
  program barrier(3, {{event::publish, 0, 0, "show"}, {event::release, 0, 0, "show"}});
  CHECK(everything(barrier) == "");
  barrier[1].pop_back();
  CHECK(mentions(deadlock(barrier, channel::posted), "waits for ever"));
}

TEST_CASE("checks: planted faults in the transport of a real ring") {
  auto with = [](crooked::fault f) {
    return planted(4, [f](recorder c, tracer k, int rank) {
      return sp::ring_attention{crooked(c, rank == 2 ? f : crooked::none), k, rotate()};
    });
  };
  CHECK(with(crooked::none).wrong == "");
  for (auto f : {crooked::other_bytes, crooked::other_peer, crooked::early}) {
    study s = with(f);
    INFO(int(f));
    CHECK(s.wrong != "");
    CHECK(everything(s.events) != "");
  }
}

TEST_CASE("checks: blocks that are missing, double or of another mask") {
  for (bool twice : {false, true}) {
    study s = planted(3, [=](recorder c, tracer k, int) { return sp::ring_attention{c, careless(k, twice), rotate()}; });
    CHECK(s.wrong != "");
    CHECK(everything(s.events) == "");
  }
  study s = planted(3, [](recorder c, tracer k, int) { return sp::ring_attention{c, k, rotate(sp::full())}; });
  CHECK(mentions(s.wrong, "at home"));
}

TEST_CASE("checks: the coverage counts") {
  ground g({3, 2}, 2, 1, causal());
  g.begin_pass(true);
  CHECK(mentions(g.uncovered(g.forward, "forward"), "head 0, query 0, key 0 is computed 0 times"));
  for (index_t h = 0; h < 2; ++h)
    for (index_t i = 0; i < 5; ++i)
      for (index_t j = 0; j < 5; ++j)
        if (g.sees(i, j)) g.forward.count(g, h, i, j);
  CHECK(g.uncovered(g.forward, "forward") == "");
  g.forward.count(g, 1, 4, 3);
  CHECK(mentions(g.uncovered(g.forward, "forward"), "head 1, query 4, key 3 is computed 2 times"));
  g.forward.count(g, 0, 3, 2); // another document
  CHECK(mentions(g.uncovered(g.forward, "forward"), "head 0, query 3, key 2 is computed 1 times"));
}

TEST_CASE("checks: a token without an owner, or with two") {
  sp::layout const l(sp::documents::rectangular(1, 10), sp::zigzag{}, 3);
  CHECK(not_a_partition(l, 10) == "");
  CHECK(mentions(not_a_partition(l, 11), "token 10 has 0 owners"));
  CHECK(mentions(not_a_partition(l, 9), "owns position 9"));
}

TEST_CASE("checks: buffers that are used while a message is on its way") {
  auto complaints = [](auto&& use) {
    record all(2);
    double out = 1, in = 2;
    sp::piece const a = sp::as_piece(sp::view<double, 1>(&out, {1})), b = sp::as_piece(sp::view<double, 1>(&in, {1}));
    sp::parcel const to{1, {&a, 1}}, from{1, {&b, 1}};
    recorder c(all, {0, {0, 1}}, 0);
    {
      token t = c.exchange({"x", {&to, 1}, {&from, 1}});
      use(t, out, in);
    }
    return all.complaints().empty() ? std::string() : all.complaints().front();
  };
  CHECK(complaints([](token& t, double&, double&) { t.wait(); }) == "");
  CHECK(mentions(complaints([](token& t, double& out, double&) { out = 3, t.wait(); }), "sends from a buffer that changes"));
  CHECK(mentions(complaints([](token& t, double&, double& in) { in = 3, t.wait(); }), "receives into a buffer that is in use"));
  CHECK(mentions(complaints([](token&, double&, double&) {}), "never waited for"));
}

} // namespace schedules::test_checks
