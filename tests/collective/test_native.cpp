// Decorators over a transport that has collectives of its own: what is counted for each, which call fails, which message is sealed.
// Numbers are those of the fallbacks, or enumerated value by value; every bit that changes on the way and every old message is found.
#include <doctest/doctest.h>

#include <map>
#include <string>

#include <sp/collective/decorators/chaos.hpp>
#include <sp/collective/decorators/checksummed.hpp>
#include <sp/collective/decorators/counting.hpp>
#include <sp/collective/reductions.hpp>
#include <sp/mesh/group.hpp>
#include <sp/threads.hpp>

#include "collective/pieces.hpp"
#include "support/failure.hpp"

namespace test_native {

using namespace collective_tests;
using support::failure_of;
using support::says;

namespace {

constexpr sp::threads_options patient{.deadline = std::chrono::seconds(30)};

/// One rank of a transport that moves nothing and writes down what it was asked for.
struct paper {
  using memory_type = sp::host_memory;
  int place, ranks;
  std::string* log;
  std::vector<sp::index_t>* bytes = nullptr; ///< of each parcel sent, where that is wanted

  struct token {
    void wait() {}
  };
  struct publication {
    std::span<piece const> of(int) const { return {}; }
    void release() {}
  };
  int rank() const { return place; }
  int size() const { return ranks; }
  token exchange(sp::traffic const& t) const { return *log += "exchange ", weigh(t), token(); }
  token all_to_all_v(sp::traffic const& t) const { return *log += "all_to_all_v ", weigh(t), token(); }
  token all_gather_v(sp::traffic const&) const { return *log += "all_gather_v ", token(); }
  void all_reduce(sp::view<double, 1>) const { *log += "all_reduce "; }
  void reduce_scatter(std::span<sp::view<double, 1> const>, sp::view<double, 1>) const { *log += "reduce_scatter "; }
  void broadcast(std::span<piece const>, int root) const { *log += "broadcast from " + std::to_string(root) + " "; }
  void barrier() const { *log += "barrier "; }
  paper split(int color, int key) const {
    *log += "split by " + std::to_string(color) + " and " + std::to_string(key) + " ";
    return *this;
  }
  publication publish(char const* primitive, std::span<piece const>) const {
    return *log += std::string(primitive) + " ", publication();
  }
  void weigh(sp::traffic const& t) const {
    for (parcel const& p : t.sends)
      if (bytes) bytes->push_back(sp::total_bytes(p.pieces));
  }
  void abort(sp::error_info const& why) const {
    *log += "abort for " + why.problem + " of rank " + std::to_string(why.rank) + " ";
  }
};
static_assert(sp::has_all_to_all_v<paper> && sp::has_all_gather_v<paper> && sp::has_all_reduce<paper, double> &&
              sp::has_reduce_scatter<paper, double> && sp::has_broadcast<paper> && sp::has_barrier<paper> &&
              sp::splittable<paper> && sp::peer_memory<paper> && sp::abortable<paper>);

/// Nothing but the base: what the fallbacks run over.
struct bare {
  using memory_type = sp::host_memory;
  sp::threads inner;
  int rank() const { return inner.rank(); }
  int size() const { return inner.size(); }
  auto exchange(sp::traffic const& t) const { return inner.exchange(t); }
};

/// Each ability of a transport once, with operands of its own.
struct each_ability {
  std::vector<double> values = std::vector<double>(30, 1.0);
  std::vector<sp::view<double, 1>> parts;
  piece one;
  parcel own;
  std::vector<std::pair<char const*, char const*>> const calls{// what a failure of it is called, and how it is written down
                                                               {"x", "exchange "},
                                                               {"x", "all_to_all_v "},
                                                               {"x", "all_gather_v "},
                                                               {"all_reduce", "all_reduce "},
                                                               {"reduce_scatter", "reduce_scatter "},
                                                               {"broadcast", "broadcast from 1 "},
                                                               {"barrier", "barrier "},
                                                               {"split", "split by 3 and 7 "},
                                                               {"shown", "shown "}};

  explicit each_ability(int rank, int size) {
    for (int r = 0; r < size; ++r) parts.push_back(all(values).narrow(0, 4 * r, 4));
    one = sp::as_piece(all(values));
    own = {rank, {&one, 1}};
  }
  template <class C>
  void call(C const& c, std::size_t k) const {
    sp::traffic const t{"x", {&own, 1}, {&own, 1}};
    if (k == 0) return c.exchange(t).wait();
    if (k == 1) return c.all_to_all_v(t).wait();
    if (k == 2) return c.all_gather_v(t).wait();
    if (k == 3) return c.all_reduce(sp::view<double, 1>(const_cast<double*>(values.data()), {30}));
    if (k == 4) return c.reduce_scatter(std::span<sp::view<double, 1> const>(parts), parts[std::size_t(c.rank())]);
    if (k == 5) return c.broadcast({&one, 1}, 1);
    if (k == 6) return c.barrier();
    if (k == 7) return static_cast<void>(c.split(3, 7));
    c.publish("shown", {&one, 1}).release();
  }
};

/// What is wrong with the bytes that reach a rank from one of its peers.
struct wire {
  int from = -1;         ///< the peer
  sp::index_t flip = -1; ///< this bit of the next message, counted from its end if below -1
  bool old = false;      ///< the message before arrives once more
  std::map<int, std::vector<std::byte>> last{};

  void arrive(parcel const& p) {
    std::vector<std::byte> bytes;
    for (sp::detail::segment_cursor c(p.pieces); !c.done(); c.advance(c.left()))
      bytes.insert(bytes.end(), c.data(), c.data() + c.left());
    auto delivered = bytes;
    if (p.peer == from && old) delivered = last[from];
    if (p.peer == from && flip != -1) {
      auto const bit = std::size_t(flip < 0 ? 8 * sp::index_t(bytes.size()) + flip + 1 : flip);
      delivered[bit / 8] ^= std::byte(1u << bit % 8);
    }
    last[p.peer] = bytes;
    auto at = delivered.begin();
    for (sp::detail::segment_cursor c(p.pieces); !c.done(); c.advance(c.left()))
      for (sp::index_t i = 0; i < c.left(); ++i) c.data()[i] = *at++;
  }
};

/// Collectives of its own over those of threads, and a wire that may be bad.
struct over_a_wire {
  using memory_type = sp::host_memory;
  sp::threads inner;
  wire* bad;

  int rank() const { return inner.rank(); }
  int size() const { return inner.size(); }
  sp::solo::token exchange(sp::traffic const& t) const {
    inner.exchange(t).wait();
    for (parcel const& p : t.receives)
      if (p.peer != rank()) bad->arrive(p);
    return {};
  }
  sp::solo::token all_to_all_v(sp::traffic const& t) const { return exchange(t); }
  sp::solo::token all_gather_v(sp::traffic const& t) const {
    std::vector<parcel> sends; // the own part is copied: these tests never have it in place
    for (int r = 0; r < size(); ++r) sends.push_back({r, t.sends[0].pieces});
    return exchange({t.primitive, sends, t.receives});
  }
  void broadcast(std::span<piece const> pieces, int root) const {
    sp::broadcast(inner, pieces, root);
    if (root != rank()) bad->arrive({root, pieces});
  }
};
static_assert(sp::has_all_to_all_v<over_a_wire> && sp::has_all_gather_v<over_a_wire> && sp::has_broadcast<over_a_wire>);

} // namespace

TEST_CASE("counting: native collectives of every rank of every size count as the rule says, value by value") {
  for (int size = 1; size <= 5; ++size)
    for (int rank = 0; rank < size; ++rank)
      for (sp::index_t n : {0, 1, 2, 4, 5, 17}) {
        CAPTURE(size);
        CAPTURE(rank);
        CAPTURE(n);
        std::string log;
        sp::ledger counts;
        sp::counting const c(paper{rank, size, &log}, counts);
        sp::index_t const others = size - 1;
        std::vector<sp::index_t> part(std::size_t(size), 0); // whose value i is: the cut rule
        for (sp::index_t i = 0; i < n; ++i) {
          int owner = 0;
          while ((owner + 1) * n / size <= i) ++owner;
          ++part[std::size_t(owner)];
        }
        sp::index_t const mine = part[std::size_t(rank)];

        std::vector<double> values(std::size_t(n), 1.0);
        c.all_reduce(all(values));
        sp::index_t messages = 0, moved = 0; // the values of their parts to each other rank, and the sums of mine
        for (int r = 0; r < size; ++r)
          if (r != rank) messages += (part[std::size_t(r)] > 0) + (mine > 0), moved += 8 * (part[std::size_t(r)] + mine);
        CHECK(counts.of("all_reduce") == sp::ledger_entry{1, messages, moved, moved, 0, 0});

        std::vector<std::vector<double>> store; // n + r values for rank r
        std::vector<sp::view<double, 1>> parts;
        for (int r = 0; r < size; ++r) store.emplace_back(std::size_t(n + r));
        for (auto& s : store) parts.push_back(all(s));
        c.reduce_scatter(std::span<sp::view<double, 1> const>(parts), parts[std::size_t(rank)]);
        sp::index_t sent = 0, with_values = 0;
        for (int r = 0; r < size; ++r)
          if (r != rank) sent += 8 * (n + r), with_values += n + r > 0;
        CHECK(counts.of("reduce_scatter") == sp::ledger_entry{1, with_values, sent, 8 * others * (n + rank), 0, 0});

        piece const p = sp::as_piece(all(values));
        for (int root = 0; root < size; ++root) {
          counts.clear();
          c.broadcast({&p, 1}, root);
          sp::index_t const give = root == rank && n > 0 ? others : 0;
          CHECK(counts.of("broadcast") == sp::ledger_entry{1, give, 8 * n * give, root == rank ? 0 : 8 * n, 0, 0});
        }
        counts.clear();
        std::vector<parcel> from;
        for (int r = 0; r < size; ++r) from.push_back({r, {&p, 1}});
        c.all_gather_v({"gather", {from.data() + rank, 1}, from}).wait();
        CHECK(counts.of("gather") == sp::ledger_entry{1, n > 0 ? others : 0, 8 * n * others, 8 * n * others, 0, 0});
        c.barrier();
        CHECK(counts.of("barrier") == sp::ledger_entry{1, 0, 0, 0, 0, 0});
        CHECK(c.split(0, 0).size() == size);
        CHECK(counts.entries().size() == 2); // making a group is not counted, under any name
      }
}

TEST_CASE("counting: a native all_reduce counts as the fallback of the same values sends") {
  sp::threads::run(
      4,
      [](sp::threads const& inner) {
        sp::ledger native, sent;
        std::string log;
        std::vector<double> values(1001, 1.0);
        sp::pool scratch;
        sp::all_reduce(sp::counting(bare{inner}, sent), all(values), scratch);
        sp::counting(paper{inner.rank(), 4, &log}, native).all_reduce(all(values));
        sp::ledger_entry want = sent.of("all_reduce");
        CHECK(want.operations == 2); // a reduce_scatter and an all_gather
        want.operations = 1;
        CHECK(native.of("all_reduce") == want);
      },
      patient);
}

TEST_CASE("chaos: every native ability is a call, fails under its own name and number, and does not run then") {
  for (int rank : {0, 2}) {
    each_ability const abilities(rank, 3);
    for (std::size_t failing = 0; failing < abilities.calls.size(); ++failing) {
      std::string log, want;
      sp::chaos const c(paper{rank, 3, &log}, {.fail_at = sp::index_t(failing)});
      for (std::size_t k = 0; k < abilities.calls.size(); ++k) {
        CAPTURE(abilities.calls[k].second);
        if (k != failing) {
          abilities.call(c, k);
          want += abilities.calls[k].second;
          continue;
        }
        auto const e = failure_of([&] { return abilities.call(c, k), 0; });
        CHECK(says(e, sp::errc::backend_error, "call " + std::to_string(k) + " fails as asked"));
        CHECK(e.primitive == abilities.calls[k].first);
        CHECK(e.rank == rank);
        CHECK(e.size == 3);
        CHECK(e.step == int(k));
      }
      CHECK(log == want);
      CHECK(c.calls() == sp::index_t(abilities.calls.size()));
    }
  }
}

TEST_CASE("chaos: messages are numbered over those with bytes from other ranks, in exchanges and native collectives alike") {
  constexpr int me = 1;
  auto count = [](int round, int from, int to) { return round == 0 && from == 0 && to == me ? 0 : 3 + round; };
  std::vector<std::pair<int, int>> numbered; // round and sender of the n-th message
  for (int round = 0; round < 3; ++round)
    for (int from = 0; from < 3; ++from)
      if (from != me && count(round, from, me) > 0) numbered.emplace_back(round, from);
  CHECK(numbered.size() == 5);
  for (std::size_t n = 0; n <= numbered.size(); ++n)
    sp::threads::run(
        3,
        [&](sp::threads const& base) {
          wire good;
          sp::chaos const c(over_a_wire{base, &good}, {.seed = n, .corrupt_at = base.rank() == me ? sp::index_t(n) : -1});
          std::vector<std::pair<int, int>> spoilt;
          for (int round = 0; round < 3; ++round) {
            everybody e(c.rank(), 3, round, [&](int from, int to) { return count(round, from, to); });
            if (round == 0) c.exchange(e.traffic("x")).wait();
            if (round == 1) c.all_gather_v({"x", {&e.sends[std::size_t(c.rank())], 1}, e.receives}).wait();
            if (round == 2) c.all_to_all_v(e.traffic("x")).wait();
            for (int from = 0; from < 3; ++from) {
              int bits = 0;
              for (int i = 0; i < count(round, from, c.rank()); ++i)
                bits += __builtin_popcount(unsigned(e.in[std::size_t(from)][std::size_t(i)] ^
                                                    token_value(from, round == 1 ? from : c.rank(), round, i)));
              for (; bits > 0; --bits) spoilt.emplace_back(round, from);
            }
          }
          bool const mine = c.rank() == me && n < numbered.size();
          CHECK(spoilt == (mine ? std::vector(1, numbered[n]) : std::vector<std::pair<int, int>>()));
        },
        patient);
}

TEST_CASE("chaos: the n-th message with bytes to another rank is cut or doubled, its pieces in order, and no other") {
  constexpr int me = 1;
  std::vector<int> values(40), none;
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = int(i);
  piece const rows = sp::as_piece(sp::view<int, 2>(values.data(), {4, 3})), two = sp::as_piece(all(values).narrow(0, 20, 2)),
              empty = sp::as_piece(all(none));
  piece const lists[3][2] = {{rows, empty}, {rows, two}, {two, rows}};
  parcel const sends[] = {{me, {lists[1], 2}}, {0, {&empty, 1}}, {2, {lists[0], 2}}, {0, {lists[1], 2}}, {2, {lists[2], 2}}};
  for (int n = -1; n < 5; ++n)
    for (bool twice : {false, true}) {
      std::string log;
      std::vector<sp::index_t> bytes;
      sp::chaos const c(paper{me, 3, &log, &bytes}, {.truncate_at = twice ? -1 : n, .duplicate_at = twice ? n : -1});
      std::vector<sp::index_t> want;
      for (int call = 0, number = 0; call < 2; ++call) {
        sp::traffic const t{"x", sends, {}};
        call == 0 ? c.exchange(t).wait() : c.all_to_all_v(t).wait();
        for (parcel const& p : sends) {
          sp::index_t const whole = sp::total_bytes(p.pieces);
          bool const counts = p.peer != me && whole > 0;
          bool const hit = counts && number++ == n;
          sp::index_t const last = p.pieces.back().bytes() == 8 ? 4 : 12; // one of two ints, or one of four rows of three
          want.push_back(!hit ? whole : twice ? 2 * whole : whole - last);
        }
      }
      CAPTURE(n);
      CAPTURE(twice);
      CHECK(bytes == want);
    }
}

TEST_CASE("decorators and mesh groups hand on what an abort is for, and the root, color, key and name they are given") {
  std::string log;
  each_ability const abilities(2, 3);
  sp::error_info const why{sp::errc::bad_documents, "a bad loader", "Look at it", "loader", 1, 3};
  auto everything = [&](auto const& c) {
    log.clear();
    for (std::size_t k = 0; k < abilities.calls.size(); ++k) abilities.call(c, k);
    c.abort(why);
    return log;
  };
  std::string const want = everything(paper{2, 3, &log});
  CHECK(want.find("abort for a bad loader of rank 1") != std::string::npos);
  sp::ledger counts;
  CHECK(everything(sp::counting(paper{2, 3, &log}, counts)) == want);
  CHECK(everything(sp::chaos(paper{2, 3, &log}, sp::chaos_options{})) == want);
  CHECK(everything(sp::group(paper{2, 3, &log}, 4)) == want);
}

TEST_CASE("checksummed: a bit or an old message in any native collective is told with its sender, and only to the receiver") {
  enum how { exchanged, all_to_all, gathered, broadcast };
  struct fault {
    sp::index_t flip;
    bool old;
  };
  fault const faults[] = {
      {0, false}, {-100, false}, {-2, false}, {-1, true}}; // the first bit, one of the last word of data, the seal
  for (how way : {exchanged, all_to_all, gathered, broadcast})
    for (auto [victim, sender] : {std::pair(2, 0), std::pair(0, 1), std::pair(1, 2)})
      for (fault const& f : faults)
        sp::threads::run(
            3,
            [&, victim = victim, sender = sender](sp::threads const& base) {
              CAPTURE(int(way));
              wire w;
              int const me = base.rank();
              sp::checksummed const c(over_a_wire{base, &w});
              sp::pool scratch;
              for (int round = 0; round < 4; ++round) {
                bool const bad = round == 2 && me == victim;
                w.from = bad ? sender : -1, w.flip = bad ? f.flip : -1, w.old = bad && f.old;
                everybody e(me, 3, round, [](int, int) { return 6; });
                bool arrived = true; // of e.out[0], which all get, where everybody gets the same
                auto run = [&] {
                  if (way == exchanged) c.exchange(e.traffic("x")).wait(), arrived = e.arrived();
                  if (way == all_to_all) c.all_to_all_v(e.traffic("x")).wait(), arrived = e.arrived();
                  if (way == gathered) {
                    sp::all_gather_v(c, "x", e.sends[0].pieces, e.receives, scratch).wait();
                    for (int r = 0; r < 3; ++r)
                      arrived = arrived && (r == me || e.in[std::size_t(r)][5] == token_value(r, 0, round, 5));
                  }
                  if (way == broadcast) {
                    sp::broadcast(c, me == sender ? e.sends[0].pieces : e.receives[0].pieces, sender);
                    arrived = me == sender || e.in[0][5] == token_value(sender, 0, round, 5);
                  }
                  return 0;
                };
                if (!bad) {
                  run(); // before and after, and on the other ranks, all is well
                  CHECK(arrived);
                  continue;
                }
                auto const i = failure_of(run);
                CHECK(says(i, sp::errc::backend_error, "of 24 bytes from rank " + std::to_string(sender)));
                CHECK(i.primitive == (way == broadcast ? "broadcast" : "x"));
                CHECK(i.rank == me);
                CHECK(i.size == 3);
                CHECK(i.peer == sender);
              }
            },
            patient);
}

} // namespace test_native
