// What ranks throw that do not agree: who is in the minority, how values are written, ties, refusals.
// Losses, gathers and relayouts run with every option wrong on each rank, and every rank must name it.
#include <doctest/doctest.h>

#include <array>
#include <limits>

#include <sp/core/digest.hpp>
#include <sp/counting.hpp>
#include <sp/gather_loss.hpp>
#include <sp/relayout.hpp>

#include "checks/step_arguments.hpp"
#include "support/failure.hpp"

namespace checks::test_agreement {
namespace {

using sp::fingerprint;
constexpr sp::threads_options patient{.deadline = std::chrono::seconds(60)};

/// What rank `reader` throws when the ranks hold these fingerprints.
outcome verdict(std::vector<fingerprint> const& all, std::size_t reader = 0) {
  std::vector<sp::call_record> records;
  for (fingerprint const& f : all) records.push_back(f.record());
  return outcome_of([&] { sp::detail::throw_if_different(records, all[reader]); });
}
/// The same where add(fingerprint, value) adds a field.
template <class Value, std::invocable<fingerprint&, Value> Add>
outcome verdict(std::vector<Value> const& values, Add&& add, std::size_t reader = 0) {
  std::vector<fingerprint> all;
  for (std::size_t r = 0; r < values.size(); ++r) add(all.emplace_back("object", ".call", int(r)), values[r]);
  return verdict(all, reader);
}
auto number(char const* field) {
  return [field](fingerprint& f, int value) { f.number(field, value); };
}
bool reads(outcome const& o, std::string const& text) {
  bool const same = o.is(errc::rank_mismatch) && o.failure->problem == text;
  if (!same) MESSAGE(o.text());
  return same;
}

} // namespace

TEST_CASE("agreement: equal fingerprints pass, one minority is named against the majority") {
  using values = std::vector<int>;
  CHECK(!verdict(values{5}, number("dim")).failure);
  CHECK(!verdict(values{5, 5, 5}, number("dim")).failure);
  auto const q_heads = number("q heads");
  CHECK(reads(verdict(values{16, 16, 8, 16}, q_heads), "rank 2 differs from ranks 0, 1, 3 in q heads: 8 against 16"));
  CHECK(reads(verdict(values{16, 8, 8, 16, 16}, q_heads), "ranks 1, 2 differ from ranks 0, 3, 4 in q heads: 8 against 16"));
  outcome const minority = verdict(values{16, 16, 8, 16}, q_heads, 2), majority = verdict(values{16, 16, 8, 16}, q_heads, 3);
  CHECK(minority.failure->rank == 2);
  CHECK(minority.failure->peer == 0);
  CHECK(majority.failure->rank == 3);
  CHECK(majority.failure->peer == 2);
  CHECK(majority.failure->size == 4);
}

TEST_CASE("agreement: ties and several opinions are told in full, long lists are cut") {
  using values = std::vector<int>;
  auto const kv_heads = number("kv heads"), dim = number("dim");
  CHECK(reads(verdict(values{2, 4}, kv_heads), "kv heads is not the same on all ranks: 2 on rank 0; 4 on rank 1"));
  CHECK(reads(verdict(values{2, 4, 4, 2}, kv_heads), "kv heads is not the same on all ranks: 2 on ranks 0, 3; 4 on ranks 1, 2"));
  CHECK(reads(verdict(values{2, 1, 1, 3}, dim), "dim is not the same on all ranks: 1 on ranks 1, 2; 2 on rank 0; 3 on rank 3"));
  values many(100, 1);
  many[41] = 0;
  CHECK(reads(verdict(many, dim), "rank 41 differs from ranks 0, 1, 2, 3, 4, 5, 6, 7, ... (99 ranks) in dim: 0 against 1"));
  values eight(9, 1), nine(10, 1); // eight are told in full
  eight[8] = nine[9] = 0;
  CHECK(reads(verdict(eight, dim), "rank 8 differs from ranks 0, 1, 2, 3, 4, 5, 6, 7 in dim: 0 against 1"));
  CHECK(reads(verdict(nine, dim), "rank 9 differs from ranks 0, 1, 2, 3, 4, 5, 6, 7, ... (9 ranks) in dim: 0 against 1"));
  values all_different;
  std::string told = "dim is not the same on all ranks: ";
  for (int r = 0; r < 24; ++r) {
    all_different.push_back(7 * r % 24);
    told += (r ? "; " : "") + std::to_string(all_different.back()) + " on rank " + std::to_string(r);
  }
  CHECK(reads(verdict(all_different, dim), told));
}

TEST_CASE("agreement: every kind of value is written as its user knows it") {
  CHECK(reads(verdict(std::vector<double>{0.125, 0.25}, [](fingerprint& f, double v) { f.real("scale", v); }),
              "scale is not the same on all ranks: 0.125000 on rank 0; 0.250000 on rank 1"));
  enum class speed { slow, fast };
  static constexpr char const* words[] = {"slow", "fast"};
  auto const word = [](fingerprint& f, speed v) { f.word("speed", v, words); };
  CHECK(reads(verdict(std::vector{speed::slow, speed::fast, speed::slow}, word),
              "rank 1 differs from ranks 0, 2 in speed: fast against slow"));
  CHECK(reads(verdict(std::vector{speed::slow, speed(7), speed::slow}, word), // of another version, say
              "rank 1 differs from ranks 0, 2 in speed: 7 against slow"));
  CHECK(reads(
      verdict(std::vector<std::uint64_t>{0xabcd1234, 0, 0xabcd1234}, [](fingerprint& f, std::uint64_t v) { f.hash("mask", v); }),
      "rank 1 differs from ranks 0, 2 in mask: none against #abcd1234"));
  CHECK(reads(verdict(std::vector<int>{-100, 0, 0}, number("ignore_index")),
              "rank 0 differs from ranks 1, 2 in ignore_index: -100 against 0"));
  // numbers of every width and sign, as they were given
  auto const rows = [](fingerprint& f, auto v) { f.number("rows", v); };
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
  CHECK(reads(verdict(std::vector<std::int64_t>{least, 0, 0}, rows),
              "rank 0 differs from ranks 1, 2 in rows: -9223372036854775808 against 0"));
  CHECK(reads(verdict(std::vector<std::uint64_t>{0, std::uint64_t(least) + 5, 0}, rows),
              "rank 1 differs from ranks 0, 2 in rows: 9223372036854775813 against 0"));
  CHECK(reads(verdict(std::vector<std::int64_t>{5, std::int64_t{5} + (std::int64_t{1} << 32), 5}, rows),
              "rank 1 differs from ranks 0, 2 in rows: 4294967301 against 5"));
  CHECK(reads(verdict(std::vector<std::uint32_t>{4294967295u, 1, 1}, rows),
              "rank 0 differs from ranks 1, 2 in rows: 4294967295 against 1"));
  auto types = [](auto a, auto b) {
    fingerprint f("x", "", 0), g("x", "", 1);
    return verdict({f.element<decltype(a)>("element type"), g.element<decltype(b)>("element type")}).failure->problem;
  };
  CHECK(types(0.0F, 0.0) == "element type is not the same on all ranks: float32 on rank 0; float64 on rank 1");
  CHECK(types(sp::bf16(0), sp::fp16(0)) ==
        "element type is not the same on all ranks: bf16 of 2 bytes on rank 0; fp16 of 2 bytes on rank 1");
  CHECK(types(std::int32_t(0), std::uint64_t(0)) ==
        "element type is not the same on all ranks: int32 on rank 0; uint64 on rank 1");
}

TEST_CASE("agreement: operations and refusals come first, further differences are listed in the order of adding") {
  std::vector<fingerprint> all{fingerprint("ring_attention", ".forward", 0).number("dim", 4),
                               fingerprint("ring_attention", ".backward", 1).number("dim", 5),
                               fingerprint("ring_attention", ".forward", 2).number("dim", 4)};
  CHECK(
      reads(verdict(all), "rank 1 differs from ranks 0, 2 in operation: ring_attention.backward against ring_attention.forward"));
  all[2].refuse(errc::bad_mask);
  CHECK(reads(verdict(all), "rank 2 refused ring_attention.forward with bad_mask"));
  all[1].refuse();
  CHECK(reads(verdict(all),
              "rank 1 refused ring_attention.backward with an exception, rank 2 refused ring_attention.forward with bad_mask"));
  CHECK(!verdict(all, 2).failure); // it has an error of its own
  all = {fingerprint("x", "", 0).number("dim", 1).number("heads", 4).hash("mask", 2).number("rows", 1),
         fingerprint("x", "", 1).number("dim", 3).number("heads", 4).hash("mask", 4).number("rows", 2)};
  CHECK(reads(verdict(all), "dim is not the same on all ranks: 1 on rank 0; 3 on rank 1 (also in mask, rows)"));
  auto operation = [](fingerprint const& f) { return f.record().operation(); };
  CHECK(operation(fingerprint("ulysses_attention", ".backward.results", 0)) == "ulysses_attention.backward.results");
  CHECK(operation(fingerprint(std::string(60, 'a'), "", 0)) == std::string(48, 'a'));
  CHECK(operation(fingerprint(std::string(40, 'a'), "12345678", 0)) == std::string(40, 'a') + "12345678"); // 48, to the last one
}

TEST_CASE("agreement: fields are known by name: another order is no difference, a field that somebody lacks is one for all") {
  fingerprint const a = fingerprint("x", "", 0).number("dim", 1).number("heads", 2);
  CHECK(!verdict({a, fingerprint("x", "", 1).number("heads", 2).number("dim", 1)}).failure);
  CHECK(reads(verdict({a, fingerprint("x", "", 1).number("heads", 1).number("dim", 2)}),
              "dim is not the same on all ranks: 1 on rank 0; 2 on rank 1 (also in heads)"));
  std::vector<fingerprint> const one_less{a, fingerprint("x", "", 1).number("dim", 1),
                                          fingerprint("x", "", 2).number("dim", 1).number("heads", 2)};
  CHECK(reads(verdict(one_less), "rank 1 differs from ranks 0, 2 in heads: not given against 2"));
  CHECK(reads(verdict(one_less, 1), "rank 1 differs from ranks 0, 2 in number of compared fields: 1 against 2"));
}

TEST_CASE("agreement: nested objects share a field, which is written from the inside out") {
  using nest = std::vector<int>;
  static constexpr char const* words[] = {"heads", "output"};
  auto const keep = [](fingerprint& f, nest const& v) {
    for (int one : v) f.next_word("keep", one, words);
  };
  CHECK(outcome_of([&] { verdict(std::vector{nest{1, 0, 1}, nest{1, 0, 1}}, keep); }).text() == "nothing");
  CHECK(reads(verdict(std::vector{nest{0, 1}, nest{0, 0}, nest{0, 1}}, keep),
              "rank 1 differs from ranks 0, 2 in keep: heads, heads against heads, output"));
  CHECK(reads(verdict(std::vector{nest{0}, nest{0, 0}, nest{0}}, keep),
              "rank 1 differs from ranks 0, 2 in keep: heads, heads against heads"));
  fingerprint deep("object", ".call", 0);
  for (int k = 0; k < 30; ++k) deep.next_word("keep", k % 2, words);
  CHECK(deep.fields() == 1);
  CHECK(outcome_of([&] { deep.number("keep", 1); }).is(errc::bad_state));
  fingerprint other("object", ".call", 0);
  other.number("keep", 1);
  fingerprint chunks("object", ".call", 0), twins("object", ".call", 1);
  for (index_t n : {4, 2}) chunks.next_number("chunks", n);
  for (index_t n : {2, 4}) twins.next_number("chunks", n);
  CHECK(!chunks.record().same_call(twins.record()));
  CHECK((chunks.fields() == 1 && chunks.text_of(0, chunks.record().find("chunks")) == "4, 2"));
  fingerprint large("object", ".call", 0);
  large.next_number("chunks", sp::unbounded);
  CHECK(large.text_of(0, large.record().find("chunks")) == "65535");
  CHECK(outcome_of([&] { other.next_word("keep", 1, words); }).is(errc::bad_state));
}

TEST_CASE("fingerprint: a field that comes twice, or one too many, is refused where it is written") {
  fingerprint f("object", ".call", 0);
  f.number("dim", 1);
  CHECK(outcome_of([&] { f.hash("dim", 1); }).is(errc::bad_state));
  std::vector<std::string> names;
  for (std::size_t k = 0; k < sp::call_record::most_fields; ++k) names.push_back("field " + std::to_string(k));
  fingerprint full("object", ".call", 0);
  for (std::string const& n : names) full.number(n.c_str(), 1);
  CHECK(full.fields() == sp::call_record::most_fields);
  CHECK(outcome_of([&] { full.number("one more", 1); }).is(errc::bad_state));
  CHECK(full.fields() == sp::call_record::most_fields);
  CHECK(full.record().find("field 7") != nullptr);
  CHECK(full.record().find("field") == nullptr);
}

TEST_CASE("digests: every word counts, bytes may be cut anywhere") {
  sp::digest const a = sp::digest().add(1).add(2), b = sp::digest().add(2).add(1);
  CHECK(a.value() != b.value());
  CHECK(a.value() == sp::digest().add(1).add(2).value());
  CHECK(sp::digest().add(0).value() != sp::digest().value());
  std::vector<unsigned char> bytes(100);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 37);
  auto const whole = sp::digest().add(bytes.data(), 100).value();
  for (std::size_t n = 0; n <= 100; ++n) CHECK(sp::digest().add(bytes.data(), n).add(bytes.data() + n, 100 - n).value() == whole);
  int changed = 0;
  for (std::size_t bit = 0; bit < 800; ++bit) {
    bytes[bit / 8] ^= static_cast<unsigned char>(1u << bit % 8);
    changed += sp::digest().add(bytes.data(), 100).value() != whole;
    bytes[bit / 8] ^= static_cast<unsigned char>(1u << bit % 8);
  }
  CHECK(changed == 800);
  CHECK(sp::digest().add(bytes.data(), 99).value() != whole);
  std::vector<int> tokens{5, 6, 7};
  std::vector<long> wide{5, 6, 7};
  CHECK(sp::digest_of(sp::view<int, 1>(tokens.data(), {3})) == sp::digest_of(sp::view<long const, 1>(wide.data(), {3})));
}

namespace {

/// Runs f(comm, victim here) for each victim and demands that all ranks name it and the field.
template <class F>
int everywhere(char const* name, F&& f) {
  int good = 0;
  for (int victim = 0; victim < 3; ++victim) {
    std::atomic<int> told = 0;
    sp::threads::run(
        3,
        [&](sp::threads const& comm) {
          outcome const o = outcome_of([&] { f(comm, comm.rank() == victim); });
          bool const right = o.is(errc::rank_mismatch) && o.says("rank " + std::to_string(victim) + " differs from ranks ") &&
                             o.says(std::string(" in ") + name + ": ");
          if (!right) MESSAGE(name << " on rank " << victim << ": " << o.text());
          told += right;
        },
        patient);
    good += told == 3;
  }
  return good;
}

} // namespace

TEST_CASE("F3: losses: options, types and contracts of all ranks agree") {
  auto run = [](sp::threads const& comm, auto contract, sp::loss_options o, auto zero) {
    std::vector<decltype(zero)> losses(4, decltype(zero)(1));
    std::vector<int> labels(4, 0);
    o.checks = o.checks == 1 ? 2 : o.checks;
    sp::gather_loss loss{comm, contract, o};
    static_cast<void>(loss.forward(sp::view<decltype(zero), 1>(losses.data(), {4}), sp::view<int, 1>(labels.data(), {4})));
  };
  using averaged = sp::averaged;
  CHECK(everywhere("reduction", [&](auto& c, bool bad) {
          run(c, averaged{3}, {.reduce = bad ? sp::reduction::sum : sp::reduction::mean}, 0.0);
        }) == 3);
  CHECK(everywhere("divide", [&](auto& c, bool bad) {
          run(c, averaged{3}, {.divide = bad ? sp::divide::later : sp::divide::now}, 0.0);
        }) == 3);
  CHECK(everywhere("ignore_index", [&](auto& c, bool bad) { run(c, averaged{3}, {.ignore_index = bad ? -1 : -100}, 0.0); }) == 3);
  CHECK(everywhere("gradient contract", [&](auto& c, bool bad) { run(c, averaged{bad ? 2 : 3}, {}, 0.0); }) == 3);
  CHECK(everywhere("check level", [&](auto& c, bool bad) { run(c, averaged{3}, {.checks = bad ? 3 : 2}, 0.0); }) == 3);
  CHECK(everywhere("element type",
                   [&](auto& c, bool bad) { bad ? run(c, averaged{3}, {}, 0.0F) : run(c, averaged{3}, {}, 0.0); }) == 3);
}

TEST_CASE("F3: gathers and relayouts: batches, types and shapes agree; another operation is found as well") {
  struct wrong {
    index_t length = 20, heads = 2;
    bool zigzag = true, single = false, loss = false;
    std::uint64_t tokens = 1;
  };
  auto gather = [](sp::threads const& comm, wrong w) {
    sp::documents const docs = sp::packed{0, w.length, 30};
    sp::batch b = w.zigzag ? sp::batch(docs, sp::zigzag{}, comm, {.token_digest = w.tokens})
                           : sp::batch(docs, sp::contiguous{}, comm, {.token_digest = w.tokens});
    auto run = [&](auto zero) {
      using T = decltype(zero);
      std::vector<T> local(std::size_t(b.tokens() * w.heads)), global(std::size_t(30 * w.heads));
      sp::view<T const, 2> from(local.data(), {b.tokens(), w.heads});
      sp::view<T, 2> to(global.data(), {30, w.heads});
      sp::gather_tokens g{comm, {.checks = 2}};
      if (w.loss)
        static_cast<void>(sp::gather_loss{comm, sp::summed{}, {.checks = 2}}.forward(sp::view<T, 1>(local.data(), {0}),
                                                                                     sp::view<int, 1>(nullptr, {0})));
      g.forward(b, from, to);
    };
    w.single ? run(0.0F) : run(0.0);
  };
  CHECK(everywhere("documents", [&](auto& c, bool bad) { gather(c, {.length = bad ? 21 : 20}); }) == 3);
  CHECK(everywhere("sharding", [&](auto& c, bool bad) { gather(c, {.zigzag = !bad}); }) == 3);
  CHECK(everywhere("tokens", [&](auto& c, bool bad) { gather(c, {.tokens = bad ? 2u : 1u}); }) == 3);
  CHECK(everywhere("row shape", [&](auto& c, bool bad) { gather(c, {.heads = bad ? 3 : 2}); }) == 3);
  CHECK(everywhere("element type", [&](auto& c, bool bad) { gather(c, {.single = bad}); }) == 3);
  CHECK(everywhere("operation", [&](auto& c, bool bad) { gather(c, {.loss = bad}); }) == 3);

  struct moved {
    bool transposed = false, from = false, to = false, map = false;
    index_t heads = 2;
  };
  auto relayout = [](sp::threads const& comm, moved w) {
    sp::documents const docs = sp::documents::rectangular(1, 24);
    sp::layout const a = w.from ? sp::layout(docs, sp::striped{}, 3) : sp::layout(docs, sp::contiguous{}, 3);
    sp::layout const b = w.to ? sp::layout(docs, sp::striped{}, 3) : sp::layout(docs, sp::zigzag{}, 3);
    sp::mapping const all[] = {{w.map ? 1 : 0, 0, 20}};
    sp::relayout const r(a, b, all, comm.rank(), {.checks = 2});
    std::vector<double> x(std::size_t(a.tokens(comm.rank()) * w.heads)), y(std::size_t(b.tokens(comm.rank()) * w.heads));
    sp::view<double, 2> in(x.data(), {a.tokens(comm.rank()), w.heads}), out(y.data(), {b.tokens(comm.rank()), w.heads});
    sp::pool scratch;
    w.transposed ? r.apply_transposed(comm, sp::view<double const, 2>(out), in, scratch)
                 : r.apply(comm, sp::view<double const, 2>(in), out, scratch);
  };
  CHECK(everywhere("operation", [&](auto& c, bool bad) { relayout(c, {.transposed = bad}); }) == 3);
  CHECK(everywhere("sharding", [&](auto& c, bool bad) { relayout(c, {.from = bad}); }) == 3);
  CHECK(everywhere("sharding moved to", [&](auto& c, bool bad) { relayout(c, {.to = bad}); }) == 3);
  CHECK(everywhere("map", [&](auto& c, bool bad) { relayout(c, {.map = bad}); }) == 3);
  CHECK(everywhere("row shape", [&](auto& c, bool bad) { relayout(c, {.heads = bad ? 3 : 2}); }) == 3);
}

TEST_CASE("losses, gathers and relayouts: level 1 sends no check, level 2 one per call, with equal results") {
  sp::threads::run(
      3,
      [](sp::threads const& base) {
        std::vector<double> gathered[4];
        double losses[4] = {};
        for (int level : {0, 1, 2, 3}) {
          sp::ledger sent;
          sp::counting comm(base, sent);
          sp::batch b(sp::packed{0, 20, 30}, sp::zigzag{}, comm);
          std::vector<double> local(std::size_t(b.tokens())), &global = gathered[level];
          for (std::size_t i = 0; i < local.size(); ++i) local[i] = double(10 * comm.rank()) + double(i);
          global.assign(30, 0);
          std::vector<int> labels(local.size());
          sp::view<double, 1> x(local.data(), {b.tokens()});
          sp::gather_tokens{comm, {.checks = level}}.forward(b, sp::view<double const, 1>(x),
                                                             sp::view<double, 1>(global.data(), {30}));
          losses[level] = sp::gather_loss{comm, sp::summed{}, {.checks = level}}
                              .forward(x, sp::view<int, 1>(labels.data(), {b.tokens()}))
                              .loss;
          sp::mapping const all = sp::identity_map(30);
          sp::pool scratch;
          std::vector<double> again(local.size());
          sp::relayout(b.layout(), b.layout(), {&all, 1}, comm.rank(), {.checks = level})
              .apply(comm, sp::view<double const, 1>(x), sp::view<double, 1>(again.data(), {b.tokens()}), scratch);
          CHECK(again == local);
          CHECK(sent.of(sp::agreement_primitive).operations == (level < 2 ? 0 : 4)); // gather: prepare and forward
          CHECK(sent.of(sp::agreement_primitive).bytes_sent == (level < 2 ? 0 : 4 * 2 * index_t(sizeof(sp::call_record))));
          CHECK(gathered[level] == gathered[0]);
          CHECK(losses[level] == losses[0]);
        }
      },
      patient);
}

} // namespace checks::test_agreement
