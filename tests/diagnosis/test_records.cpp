// What a flight record says, number by number: ranks, peers and bytes of 0 are numbers like others, groups are many, and logs and
// traces tell the same. Records are read as the JSON that they are.
#include <chrono>
#include <regex>
#include <thread>
#include <vector>

#include <sp/threads.hpp>

#include "collective/pieces.hpp"
#include "diagnosis/scratch.hpp"
#include "support/failure.hpp"

namespace test_records {

using namespace diagnosis_tests;
using collective_tests::all;
using sp::operation_kind;
using namespace std::chrono_literals;

namespace {

/// The value of a field in the first line that holds `key`, as it is written.
std::string field(std::string const& json, std::string const& key, std::string const& name) {
  std::size_t const at = json.find(key), end = json.find('\n', at);
  if (at == std::string::npos) return "no " + key;
  std::string const line = json.substr(json.rfind('\n', at) + 1, end - json.rfind('\n', at) - 1);
  std::smatch found;
  std::regex const wanted("\"" + name + "\": (\"[^\"]*\"|[-0-9]+)");
  return std::regex_search(line, found, wanted) ? found[1].str() : "no " + name;
}

/// Everybody's record of rank `rank`, as the recorder gives it.
std::string json_of(sp::flight_recorder const& r) { return r.json(nullptr, "", -1); }

} // namespace

TEST_CASE("records: every number of an operation is in its record, in JSON, log and trace, 0 too") {
  scratch folder;
  sp::diagnosis::configure(
      {.log = sp::diagnosis::level::trace, .log_file = folder / "log.%r", .trace_file = folder / "trace.%r"});
  {
    sp::flight_recorder r(0, 3, 8, 0);
    auto world = r.join(0, 0, {0, 1, 2}), part = r.join(5, 1, {2, 0});
    sp::located({"ring_attention", ".forward", 0, 3}, [&] {
      auto const x = r.begin(world, operation_kind::exchange, "ring");
      r.posted(x, 120, 0);
      r.waiting(x, 0);
      r.done(x);
    });
    auto const p = r.begin(part, operation_kind::publish, "show");
    r.posted(p, 77, 0);
    r.waiting(p, 2);
    r.failed(p);
    r.done(r.begin(part, operation_kind::barrier, "barrier"));
    std::string const json = json_of(r);
    INFO(json);
    CHECK(has(json, "{\"sp_flight\": 1, \"host\": \""));
    CHECK(has(json, "\"rank\": 0, \"size\": 3,\n"));
    CHECK(has(json, "\"recorded\": 3,\n \"failure\": null,\n"));
    CHECK(has(json, "\"groups\": [{\"group\": 0, \"ranks\": [0, 1, 2]}, {\"group\": 5, \"ranks\": [2, 0]}],\n"));
    std::string const x = "\"primitive\": \"ring\"", s = "\"primitive\": \"show\"", b = "\"primitive\": \"barrier\"";
    auto is = [&](std::string const& key, char const* name, char const* value) {
      CHECK_MESSAGE(field(json, key, name) == value, key << " " << name);
    };
    is(x, "kind", "\"exchange\""), is(x, "state", "\"done\""), is(x, "call", "\"ring_attention.forward\"");
    is(x, "group", "0"), is(x, "number", "0"), is(x, "rank", "0"), is(x, "size", "3"), is(x, "peer", "0");
    is(x, "bytes_out", "120"), is(x, "bytes_in", "0");
    is(s, "kind", "\"publish\""), is(s, "state", "\"failed\""), is(s, "call", "\"\""), is(s, "group", "5");
    is(s, "number", "0"), is(s, "rank", "1"), is(s, "size", "2"), is(s, "peer", "2"), is(s, "bytes_out", "77");
    is(b, "kind", "\"barrier\""), is(b, "number", "1"), is(b, "peer", "-1"), is(b, "wait_us", "0");
    auto const begin = std::stoll(field(json, x, "begin_us")), wait = std::stoll(field(json, x, "wait_us")),
               end = std::stoll(field(json, x, "end_us")), dumped = std::stoll(field(json, "dumped_us", "dumped_us"));
    CHECK((begin > 1'600'000'000'000'000 && begin <= wait && wait <= end && end <= dumped));
    sp::error_info const cause{sp::errc::timeout, "late", "Wait", "ring", 0, 3, 0, 0};
    CHECK(has(
        r.json(&cause, "so \"late\"", 0),
        "\"failure\": {\"code\": \"timeout\", \"rank\": 0, \"primitive\": \"ring\", \"peer\": 0, \"why\": \"so \\\"late\\\"\"}"));
  }
  std::string const log = text_of(folder / "log.0"), trace = text_of(folder / "trace.0");
  INFO(log << trace);
  CHECK(has(log, " TRACE COLL ring: exchange 0 of group 0 in ring_attention.forward sends 120 bytes, expects 0\n"));
  CHECK(has(log, " TRACE COLL ring: exchange 0 of group 0 in ring_attention.forward waits for rank 0 of the world\n"));
  CHECK(std::regex_search(log, std::regex(" TRACE COLL show: publish 0 of group 5 has failed after [0-9.]+ us\n")));
  CHECK(std::regex_search(log, std::regex(" TRACE COLL barrier: barrier 1 of group 5 is done after [0-9.]+ us\n")));
  CHECK(has(trace, "\"name\": \"ring post\""));
  CHECK(has(trace, "\"kind\": \"publish\", \"number\": 0, \"bytes_out\": 77, \"bytes_in\": 0, \"peer\": 2}"));
  CHECK(has(trace, "\"kind\": \"exchange\", \"number\": 0, \"bytes_out\": 120, \"bytes_in\": 0, \"peer\": 0}"));
  CHECK(has(trace, "\"name\": \"rank 0 of 3 ("));
  CHECK(has(trace, "\"name\": \"group 5 of 2\""));
}

TEST_CASE("records: a ring of any length keeps that many, and of many groups the world and the last ones") {
  scratch folder;
  for (int records : {1, 2, 3, 8, 16, 17, 256}) {
    int const room = records == 3 ? 4 : records == 17 ? 32 : records;
    sp::flight_recorder r(0, 1, records, 0);
    auto world = r.join(0, 0, {0});
    for (int n = 1; n <= 2 * room + 1; ++n) {
      r.done(r.begin(world, operation_kind::barrier, "barrier"));
      auto const list = r.snapshot();
      CHECK(list.size() == std::size_t(std::min(n, room)));
      CHECK((list.back().number == std::uint64_t(n - 1) && list.front().number == std::uint64_t(std::max(n - room, 0))));
    }
    for (int g = 1; g <= 70; ++g) static_cast<void>(r.join(g, 0, {0}));
    std::string const json = json_of(r);
    CHECK(count(json, "{\"group\": ") == 64);
    CHECK(has(json, "\"groups\": [{\"group\": 0, \"ranks\": [0]}, {\"group\": 8, "));
    CHECK(has(json, "{\"group\": 70, \"ranks\": [0]}],"));
  }
}

TEST_CASE("records: patterns of file names") {
  auto const name = [](char const* pattern, int rank) { return sp::detail::expand(pattern, rank, 7); };
  CHECK(name("a.%r.%n.%%", 0) == "a.0.7.%");
  CHECK(name("%r", 23) == "23");
  CHECK(name("%r", -1) == "x");
  CHECK(name("%x%", 1) == "%x%");
  CHECK(name("%p", 1) == std::to_string(::getpid()));
  CHECK(name("", 1).empty());
}

TEST_CASE("merge tool: twenty-four ranks, of which rank 0 hangs for rank 23, are told in numbers") {
  scratch folder;
  sp::diagnosis::configure({.flight_file = folder / "flight.%r"});
  constexpr int ranks = 24;
  std::atomic<int> left{0};
  auto const e = support::failure_of([&] {
    sp::threads::run(ranks,
                     [&](sp::threads const& c) {
                       for (int i = 0; i < 9; ++i) c.barrier();
                       if (c.rank() == 23)
                         while (left < ranks - 1) std::this_thread::sleep_for(1ms);
                       try {
                         c.publish("show", {}).release();
                       } catch (...) {
                         ++left;
                         throw;
                       }
                     },
                     {.deadline = 300ms});
  });
  CHECK(e.code == sp::errc::timeout);
  CHECK(e.peer == 23);
  auto const o = run(tool() + "--last 1 " + (folder / "flight.*"));
  INFO(o.text);
  CHECK(o.code == 1);
  CHECK(has(o.text, "24 of 24 ranks left a flight record\n"));
  CHECK(has(o.text, "rank 23 never came to show (publish), where ranks 0, 1, 2, "));
  CHECK(has(o.text, ", 21, 22 wait; of rank 23: it is in no call of sp; its last operation is 8 of group 0, barrier, done\n"));
  CHECK(count(o.text, "show (publish)  waiting    23") == 23);
  std::string const first = text_of(folder / "flight.0"), last = text_of(folder / "flight.23");
  CHECK(has(first, "\"rank\": 0, \"size\": 24,"));
  CHECK(has(last, "20, 21, 22, 23]}]"));
  CHECK(has(last, "\"failure\": {\"code\": \"timeout\", \"rank\": " + std::to_string(e.rank) +
                      ", \"primitive\": \"show\", \"peer\": 23,"));
}

TEST_CASE("merge tool: two ranks that wait for each other, rank 0 for peer 0 of another group") {
  scratch folder;
  sp::diagnosis::configure({.flight_file = folder / "flight.%r"});
  auto const e = support::failure_of([&] {
    sp::threads::run(2,
                     [](sp::threads const& c) {
                       auto const a = c.split(0, 0), b = c.split(0, -c.rank());
                       (c.rank() == 0 ? a : b).barrier(); // crossed
                       (c.rank() == 0 ? b : a).barrier();
                     },
                     {.deadline = 200ms});
  });
  CHECK(e.code == sp::errc::timeout);
  auto const o = run(tool() + (folder / "flight.*"));
  INFO(o.text);
  CHECK(o.code == 1);
  CHECK(has(o.text, "operation 0 of group 1 (ranks 0, 1): rank 1 never came to barrier, where rank 0 waits; of rank 1: "));
  CHECK(has(o.text, "operation 0 of group 2 (ranks 0, 1): rank 0 never came to barrier, where rank 1 waits; of rank 0: "));
  CHECK(count(o.text, "also: ") == 1);
}

TEST_CASE("records: what threads exchange and publish is told in bytes, without what a rank sends to itself") {
  sp::threads::run(3, [](sp::threads const& c) {
    collective_tests::everybody e(c.rank(), 3, 0, [](int from, int to) { return from + 2 * to; });
    c.exchange(e.traffic("ragged")).wait();
    std::vector<int> few(5);
    sp::piece const mine[2]{sp::as_piece(all(few)), sp::as_piece(all(few))};
    c.publish("show", mine).release();
    sp::index_t sent = 0, got = 0;
    for (int p = 0; p < 3; ++p)
      if (p != c.rank()) sent += 4 * (c.rank() + 2 * p), got += 4 * (p + 2 * c.rank());
    auto const list = c.flight().snapshot();
    REQUIRE(list.size() == 3);
    CHECK((list[0].kind == operation_kind::exchange && list[0].bytes_out == sent && list[0].bytes_in == got));
    CHECK((list[1].kind == operation_kind::publish && list[1].bytes_out == 40 && list[1].bytes_in == 0));
    CHECK((list[2].kind == operation_kind::release && list[2].bytes_out == 0 && list[2].number == 2));
  });
}

TEST_CASE("log: a wait is warned of at the limit and when it has doubled, not in between") {
  scratch folder;
  sp::diagnosis::configure({.log = sp::diagnosis::level::warn, .log_file = folder / "log.%r", .long_wait = 100ms});
  sp::flight_recorder r(0, 2, 4, 0);
  auto world = r.join(0, 0, {0, 1});
  auto const begin = std::chrono::steady_clock::now();
  auto const t = r.begin(world, operation_kind::barrier, "barrier");
  r.waiting(t, 1);
  r.waiting(t, 1); // not yet
  CHECK(text_of(folder / "log.0").empty());
  std::this_thread::sleep_for(105ms);
  for (int i = 0; i < 2; ++i) r.waiting(t, 1);
  CHECK(count(text_of(folder / "log.0"), " WARN COLL barrier: barrier 0 of group 0 has waited ") == 1);
  std::this_thread::sleep_for(std::chrono::steady_clock::now() - begin + 5ms); // now it has doubled
  for (int i = 0; i < 2; ++i) r.waiting(t, 0);
  CHECK(count(text_of(folder / "log.0"), "\n") == 2);
  CHECK(has(text_of(folder / "log.0"), " s for rank 0 of the world\n"));
  r.done(t);
}

} // namespace test_records
