// Calls of linear attention: forms, memory, the choice of a strategy, and what is refused before anything is sent.
// A plan, a saved and operands say where they belong; a saved is used once.
#include <doctest/doctest.h>

#include "linear/linear_trial.hpp"
#include "support/exact_workspace.hpp"
#include "support/failure.hpp"

namespace test_linear_calls {
namespace {

using namespace linear_trial;
using sp::errc;
using sp::linear_strategy;
using support::failure_of;
using support::says;

using options = sp::linear_attention_options;
using ranks = sp::counting<sp::threads>;
using attention = sp::linear_attention<ranks, sp::gated_delta>;
using operands = sp::linear_operands<double, 2>;
using gradients = sp::linear_gradients<double, 2>;
template <int R>
using tensor = sp::view<double, R>;

/// Tensors of one rank: two key heads, four value heads, key dim 3, value dim 2.
struct tensors {
  static constexpr sp::linear_shape shape{0, 2, 4, 3, 2};
  index_t n, documents;
  std::vector<double> memory;

  explicit tensors(sp::batch const& b)
      : n(b.tokens()), documents(index_t(b.docs().size())), memory(at(16 * n * 8 + 4 * documents * 24)) {
    for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = double(i % 7) / 7 - 0.4;
    for (index_t i = 0; i < 4 * n; ++i) *(gate(0).data + i) = -0.1, *(gate(1).data + i) = 0.5;
  }
  /// The i-th of them, with room for n x 8 numbers.
  tensor<3> of(index_t i, index_t heads, index_t width) { return {memory.data() + i * n * 8, n, heads, width}; }
  tensor<2> gate(index_t i) { return {memory.data() + (14 + i) * n * 8, n, 4}; }
  tensor<4> state(index_t i) { return {memory.data() + 16 * n * 8 + i * documents * 24, documents, 4, 3, 2}; }
  operands forward() {
    return {.q = of(0, 2, 3), .k = of(1, 2, 3), .v = of(2, 4, 2), .gates = {gate(0), gate(1)}, .out = of(3, 4, 2)};
  }
  gradients backward() {
    gradients g{.q = of(0, 2, 3), .k = of(1, 2, 3), .v = of(2, 4, 2), .gates = {gate(0), gate(1)}, .dout = of(4, 4, 2)};
    g.dq = of(5, 2, 3), g.dk = of(6, 2, 3), g.dv = of(7, 4, 2), g.dgates = {of(8, 4, 1), of(9, 4, 1)};
    return g;
  }
  void clear_results() {
    for (index_t i : {3, 5, 6, 7, 8, 9}) std::fill_n(of(i, 4, 2).data, n * 8, 7);
  }
  numbers out() { return {of(3, 4, 2).data, of(3, 4, 2).data + n * 8}; }
};

TEST_CASE(
    "linear attention: short forms keep the plan with the batch, calls fit into the bytes that were asked for, ranks compare") {
  sp::threads::run(3, [](sp::threads const& threads) {
    sp::ledger ledger;
    ranks const c(threads, ledger);
    sp::batch const b(sp::packed{0, 9, 9, 20}, sp::zigzag{sp::scope::stream}, c);
    tensors t(b);
    for (int checks : {1, 2}) {
      options const by_state{.strategy = linear_strategy::state, .checks = checks};
      attention const a{c, sp::gated_delta{}, by_state}, twin{c, sp::gated_delta{}, by_state};
      auto saved = a.forward(b, t.forward());
      numbers const out = t.out();
      a.backward(b, std::move(saved), t.backward());
      std::fill_n(t.of(3, 4, 2).data, t.n * 8, rubbish);
      a.infer(b, t.forward());
      bool good = t.out() == out && &*a.prepared_for(b) == &*a.prepared_for(b) &&
                  (&*a.prepared_for(b) == &*twin.prepared_for(b)) == (checks < 2);

      auto const p = a.prepare(b);
      std::vector<std::byte> bytes(std::size_t(a.scratch_bytes<double>(p, t.shape)) + 64),
          kept(std::size_t(a.saved_bytes<double>(p, t.shape)) + 64);
      sp::workspace scratch(bytes.data(), bytes.size()), keep(kept.data(), kept.size());
      sp::context const ctx(scratch, keep);
      operands o = t.forward();
      gradients g = t.backward();
      o.initial_state = g.initial_state = t.state(0), o.final_state = t.state(1);
      g.dinitial_state = t.state(2), g.dfinal_state = t.state(3);
      a.infer(p, ctx, o);
      auto s = a.forward(p, ctx, o);
      a.backward(p, ctx, std::move(s), g);
      if (checks == 2) {
        attention const other{
            c, sp::gated_delta{}, {.strategy = linear_strategy::state, .head_chunks = c.rank() == 1 ? 2 : 3, .checks = 2}};
        good = good && says(failure_of([&] { return other.prepare(b); }), errc::rank_mismatch, "head chunks");
      }
      CHECK(good);
    }
  });
}

/// What a call throws that rank 1 alone refuses, by itself or at its word: from level 2 on all ranks do.
bool refused_by_rank_1(sp::error_info const& e, int rank, errc code, std::string const& problem, char const* call) {
  std::string const told = "rank 1 refused " + std::string(call) + " with " + sp::name(code);
  return rank == 1 ? says(e, code, problem) : says(e, errc::rank_mismatch, told);
}
inline constexpr sp::threads_options patience{.deadline = std::chrono::seconds(10)};

TEST_CASE("linear attention: a call without room is refused before anything is sent, from level 2 on by all, and made again") {
  auto check = [](sp::threads const& threads, linear_strategy how, int checks) {
    sp::ledger ledger;
    ranks const c(threads, ledger);
    sp::batch const b(sp::packed{0, 9, 9, 20}, sp::zigzag{sp::scope::stream}, c);
    tensors t(b);
    attention const a{c, sp::gated_delta{}, {.strategy = how, .checks = checks}};
    auto const p = a.prepare(b);
    index_t const needed = a.scratch_bytes<double>(p, t.shape);
    support::exact_workspace little(needed - 64), enough(needed);
    sp::pool memory;
    sp::context const roomy(memory, memory), tight(little.space, memory), fits(enough.space, memory);
    auto sent = [&] { return ledger.total().bytes_sent - ledger.of(sp::agreement_primitive).bytes_sent; };
    bool good = needed - 64 > (checks > 1 ? sp::agreement_scratch(3) : 0);
    auto refuses = [&](char const* call, auto&& attempt) { // rank 1 has too little room
      if (checks < 2 && c.rank() != 1) return;
      index_t const before = sent();
      auto const e = failure_of([&] { return attempt(c.rank() == 1 ? tight : fits), 0; });
      good = good && sent() == before &&
             refused_by_rank_1(e, c.rank(), errc::workspace_too_small, "up to " + std::to_string(needed) + " bytes", call);
    };
    t.clear_results();
    a.backward(p, roomy, a.forward(p, roomy, t.forward()), t.backward());
    std::vector<double> const once = t.memory;
    t.clear_results();
    refuses("linear_attention.forward", [&](auto const& ctx) { static_cast<void>(a.forward(p, ctx, t.forward())); });
    auto saved = a.forward(p, fits, t.forward());
    refuses("linear_attention.backward", [&](auto const& ctx) { a.backward(p, ctx, std::move(saved), t.backward()); });
    a.backward(p, fits, std::move(saved), t.backward());
    CHECK(good);
    CHECK(t.memory == once);
  };
  for (linear_strategy how : {linear_strategy::state, linear_strategy::heads})
    for (int checks : {1, 2})
      sp::threads::run(
          3, [&](sp::threads const& c) { check(c, how, checks); }, patience);
}

TEST_CASE("linear attention: from level 2 on ranks compare initial states, what kernels were told, and whose saved it is") {
  auto check = [](sp::threads const& threads) {
    sp::ledger ledger;
    ranks const c(threads, ledger);
    sp::batch const b(sp::packed{0, 9, 9, 20}, sp::zigzag{sp::scope::stream}, c);
    tensors t(b);
    bool good = true;
    auto differs = [&](char const* how, auto&& call) {
      auto const e = failure_of([&] { return call(), 0; });
      good = good && says(e, errc::rank_mismatch, std::string("rank 1 differs from ranks 0, 2 in ") + how);
    };
    options const compared{.strategy = linear_strategy::state, .checks = 2};
    attention const a{c, sp::gated_delta{}, compared};
    operands o = t.forward();
    if (c.rank() == 1) o.initial_state = t.state(0);
    differs("initial state: 1 against 0", [&] { a.infer(b, o); });

    using told = sp::linear_options;
    for (told const& other :
         {told{}, told{.scale = 2.0}, told{.scale = 1.0, .normalise = true}, told{.scale = 1.0, .chunk = 16}}) {
      attention const x{c, sp::gated_delta(c.rank() == 1 ? other : told{.scale = 1.0}), compared};
      differs("kernel features", [&] { static_cast<void>(x.prepare(b)); });
    }
    told const thrifty{.keep_every = 64, .recompute = true}; // which changes no number
    attention(c, sp::gated_delta(c.rank() == 1 ? thrifty : told{}), compared).infer(b, t.forward());

    auto first = a.forward(b, t.forward()), second = a.forward(b, t.forward()); // the call that was refused does not count
    differs("number of the forward call: 1 against 2",
            [&] { a.backward(b, std::move(c.rank() == 1 ? first : second), t.backward()); });
    a.backward(b, std::move(first), t.backward());
    a.backward(b, std::move(second), t.backward());
    CHECK(good);
  };
  sp::threads::run(3, check, patience);
}

TEST_CASE("linear attention: infer takes no byte for the states that forward would keep") {
  sp::threads::run(3, [](sp::threads const& threads) {
    sp::ledger ledger;
    ranks const c(threads, ledger);
    sp::batch const b(sp::packed{0, 600}, sp::contiguous{}, c);
    tensors t(b);
    for (linear_strategy const how : {linear_strategy::state, linear_strategy::heads}) {
      std::vector<std::size_t> peaks;
      std::vector<numbers> outs;
      for (index_t const every : {64, 600}) {
        attention const a{c, sp::gated_delta({.keep_every = every}), {.strategy = how}};
        sp::pool scratch, kept;
        std::fill_n(t.of(3, 4, 2).data, t.n * 8, rubbish);
        a.infer(a.prepare(b), {scratch, kept}, t.forward());
        peaks.push_back(scratch.peak_bytes() + kept.peak_bytes()), outs.push_back(t.out());
      }
      CHECK((peaks[0] > 0 && peaks[0] == peaks[1] && outs[0] == outs[1]));
    }
  });
}

TEST_CASE("linear attention: chunks of heads change nothing but rounding, and no byte") {
  std::mt19937 random(3);
  scene s{sp::packed{0, 30, 37}};
  s.shape = {0, 4, 4, 3, 2};
  s.initial = s.final = true;
  inputs const in = draw<sp::gated_delta, double>(s, random);
  bool agreed = false;
  std::vector<results> all;
  std::vector<index_t> bytes;
  for (index_t chunks : {1, 3, 16}) {
    cut const k{.parts = 3, .options = {.strategy = linear_strategy::state, .head_chunks = chunks}};
    auto const parts = run<sp::gated_delta, double>(s, k, in);
    all.push_back(joined<sp::gated_delta>(s, k, parts, agreed));
    bytes.push_back(parts[1].forward_bytes + parts[1].backward_bytes);
    CHECK(error(s, all.back(), all.front()) < 1e-13);
    CHECK(bytes.back() == bytes.front());
  }
}

TEST_CASE("linear attention: automatic takes the strategy that sends less, and says why") {
  sp::threads::run(4, [](sp::threads const& threads) {
    sp::ledger ledger;
    ranks const c(threads, ledger);
    attention const any{c, sp::gated_delta{}}, asked{c, sp::gated_delta{}, {.strategy = linear_strategy::state}};
    auto chosen = [&](sp::batch const& b, std::string const& word) {
      auto const p = any.prepare(b);
      auto const how = any.strategy_for<float>(p, tensors::shape);
      auto sent = [&](linear_strategy x) { return any.bytes<float>(p, tensors::shape, x).all(); };
      bool const striped = word == "stride";
      return (how == linear_strategy::state) == (!striped && sent(linear_strategy::state) <= sent(linear_strategy::heads)) &&
             any.reason<float>(p, tensors::shape).find(word) != std::string::npos;
    };
    sp::batch const longer(sp::packed{0, 4000}, sp::contiguous{}, c), short_one(sp::packed{0, 4}, sp::contiguous{}, c),
        striped(sp::packed{0, 40}, sp::striped{}, c);
    bool good = chosen(longer, "state: all ranks together send") && chosen(short_one, "all ranks together send") &&
                chosen(striped, "stride");
    auto bytes = [](attention const& a, auto const& p, linear_strategy x) { return a.bytes<float>(p, tensors::shape, x).all(); };
    for (sp::batch const* b :
         {&longer, &short_one, &striped}) { // automatic: those of the strategy that is taken, and some are sent
      auto const of_both = any.prepare(*b);
      index_t const sent = bytes(any, of_both, linear_strategy::automatic);
      good = good && sent > 0 && sent == bytes(any, of_both, any.strategy_for<float>(of_both, tensors::shape));
    }
    good = good && says(failure_of([&] { return bytes(any, any.prepare(striped), linear_strategy::state); }), errc::unsupported,
                        "rank 0 owns runs with a stride");
    auto const p = asked.prepare(longer);
    good = good && bytes(asked, p, linear_strategy::automatic) == bytes(asked, p, linear_strategy::state) &&
           says(failure_of([&] { return bytes(asked, p, linear_strategy::heads); }), errc::bad_state, "no part by heads",
                "prepared for state alone") &&
           says(failure_of([&] { return bytes(asked, p, linear_strategy(7)); }), errc::unsupported, "no strategy number 7");
    good = good && asked.reason<float>(p, tensors::shape) == "state: asked for";
    auto const e = failure_of([&] { return asked.prepare(striped); });
    good = good && says(e, errc::unsupported, "rank 0 owns runs with a stride") &&
           e.remedy.find("linear_strategy::heads") != std::string::npos;
    CHECK(good);
  });
}

TEST_CASE("linear attention: questions about a plan of another object, or about no heads, are refused as calls would be") {
  sp::batch const b(sp::packed{0, 3, 6}, sp::contiguous{}, 0, 1);
  sp::threads::run(1, [&](sp::threads const& threads) {
    sp::ledger ledger;
    ranks const c(threads, ledger);
    attention const by_state{c, sp::gated_delta{}, {.strategy = linear_strategy::state}}, any{c, sp::gated_delta{}},
        by_heads{c, sp::gated_delta{}, {.strategy = linear_strategy::heads}}, compared{c, sp::gated_delta{}, {.checks = 2}};
    auto refused = [](attention const& a, attention::prepared const& p, sp::linear_shape const& s, errc code, char const* text) {
      auto one = [&](std::string const& call, auto&& ask) {
        auto const e = failure_of(ask);
        CHECK(says(e, code, text));
        CHECK(e.primitive == "linear_attention." + call);
      };
      one("scratch_bytes", [&] { return a.scratch_bytes<double>(p, s); });
      one("saved_bytes", [&] { return a.saved_bytes<double>(p, s); });
      one("strategy_for", [&] { return a.strategy_for<float>(p, s); });
      one("reason", [&] { return a.reason<float>(p, s); });
      one("bytes", [&] { return a.bytes<float>(p, s, linear_strategy::state); });
    };
    auto const of_state = by_state.prepare(b), of_heads = by_heads.prepare(b), of_any = any.prepare(b);
    refused(by_state, of_heads, tensors::shape, errc::bad_state, "another strategy");
    refused(by_heads, of_state, tensors::shape, errc::bad_state, "another strategy");
    refused(any, {}, tensors::shape, errc::bad_state, "not made by prepare");
    refused(compared, of_any, tensors::shape, errc::bad_state, "level below 2");
    refused(any, of_any, {0, 0, 4, 3, 2}, errc::invalid_shape, "4 value heads of 2 and 0 key heads of 3");
    refused(any, of_any, {0, 3, 4, 3, 2}, errc::invalid_shape, "4 value heads of 2 and 3 key heads of 3");
    refused(any, of_any, {0, 2, 4, 0, 2}, errc::invalid_shape, "key heads of 0");
  });
}

TEST_CASE("linear attention: what does not fit is refused with both numbers, before anything is sent") {
  sp::threads::run(1, [](sp::threads const& threads) {
    sp::ledger ledger;
    ranks const c(threads, ledger);
    options const by_state{.strategy = linear_strategy::state};
    attention const a{c, sp::gated_delta{}, by_state};
    attention const compared{c, sp::gated_delta{}, {.strategy = linear_strategy::state, .checks = 2}};
    sp::batch const b(sp::packed{0, 3, 6}, sp::contiguous{}, 0, 1), other(sp::packed{0, 3, 6}, sp::contiguous{}, 0, 1);
    sp::batch const of_two(sp::packed{0, 3, 6}, sp::contiguous{}, 1, 2);
    tensors t(b);
    sp::pool memory;
    sp::context const ctx(memory, memory);
    auto const p = a.prepare(b);
    auto with = [&](auto change) {
      operands o = t.forward();
      change(o);
      return failure_of([&] { return a.infer(p, ctx, o), 0; });
    };
    CHECK(says(failure_of([&] { return a.prepare(of_two); }), errc::invalid_shape, "rank 1 of 2", "rank 0 of 1"));
    auto made = [&](options const& o) { return failure_of([&] { return attention(c, sp::gated_delta{}, o).group().rank(); }); };
    CHECK(says(made({.head_chunks = 0}), errc::invalid_shape, "heads in 0 chunks"));
    CHECK(says(made({.head_chunks = -2}), errc::invalid_shape, "heads in -2 chunks"));
    CHECK(says(made({.strategy = linear_strategy(3)}), errc::unsupported, "no strategy number 3"));
    CHECK(made({.strategy = linear_strategy(-1)}).primitive == "linear_attention");
    auto const missing = with([&](operands& o) { o.q = {}; });
    CHECK(says(missing, errc::bad_pointer, "q is missing"));
    CHECK(missing.primitive == "linear_attention.forward");
    CHECK(missing.rank == 0);
    CHECK(says(with([&](operands& o) { o.gates[1] = {}; }), errc::bad_pointer, "gates[1] is missing"));
    CHECK(says(with([&](operands& o) { o.q = o.k = tensor<3>(t.memory.data(), 5, 2, 3); }), errc::invalid_shape, "q has 5 rows",
               "owns 6"));
    CHECK(says(with([&](operands& o) { o.k = t.of(1, 2, 2); }), errc::invalid_shape, "(6, 2, 3)", "(6, 2, 2)"));
    CHECK(says(with([&](operands& o) { o.v = t.of(3, 3, 2), o.out = t.of(4, 3, 2); }), errc::invalid_shape, "3 value heads",
               "2 key heads"));
    CHECK(
        says(with([&](operands& o) { o.gates[0] = t.of(0, 4, 3); }), errc::invalid_shape, "gates[0] is (6, 4, 3)", "(6, 4, 1)"));
    CHECK(says(with([&](operands& o) { o.out = t.of(3, 4, 1); }), errc::invalid_shape, "(6, 4, 1)", "(6, 4, 2)"));
    CHECK(says(with([&](operands& o) { o.out = t.of(2, 4, 2); }), errc::aliasing, "out overlaps v"));
    CHECK(says(with([&](operands& o) { o.out = tensor<3>(nullptr, 6, 4, 2); }), errc::bad_pointer, "out (6, 4, 2) is null"));
    CHECK(says(with([&](operands& o) { o.initial_state = tensor<4>(t.memory.data(), 1, 4, 3, 2); }), errc::invalid_shape,
               "(1, 4, 3, 2)", "(2, 4, 3, 2)"));
    CHECK(says(failure_of([&] { return compared.infer(p, ctx, t.forward()), 0; }), errc::bad_state, "level below 2"));
    CHECK(says(failure_of([&] { return a.infer(attention::prepared{}, ctx, t.forward()), 0; }), errc::bad_state,
               "not made by prepare"));

    auto backward = [&](attention const& object, attention::prepared const& plan, auto&& saved, gradients const& g) {
      return failure_of([&] { return object.backward(plan, ctx, std::move(saved), g), 0; });
    };
    auto saved = a.forward(p, ctx, t.forward());
    gradients const g = t.backward();
    CHECK(says(backward(attention{c, sp::gated_delta{}, by_state}, p, saved, g), errc::bad_state, "another object"));
    CHECK(says(backward(a, a.prepare(other), saved, g), errc::bad_state, "another batch", std::to_string(b.serial()).c_str(),
               std::to_string(other.serial()).c_str()));
    gradients bad = g;
    bad.initial_state = t.state(0);
    CHECK(says(backward(a, p, saved, bad), errc::bad_state, "forward was given no initial state, backward one"));
    bad = g, bad.dfinal_state = t.state(0);
    CHECK(says(backward(a, p, saved, bad), errc::bad_state, "no final state"));
    bad = g, bad.dinitial_state = t.state(0);
    CHECK(says(backward(a, p, saved, bad), errc::bad_state, "without an initial state"));
    bad = g, bad.dq = t.of(6, 2, 3);
    CHECK(says(backward(a, p, saved, bad), errc::aliasing, "dq overlaps dk"));
    bad = g, bad.dgates[1] = t.of(8, 4, 1);
    CHECK(says(backward(a, p, saved, bad), errc::aliasing, "overlaps"));
    bad = g, bad.q = bad.k = tensor<3>(t.memory.data(), 6, 1, 3), bad.dq = tensor<3>(t.of(5, 1, 3)),
    bad.dk = tensor<3>(t.of(6, 1, 3));
    CHECK(says(backward(a, p, saved, bad), errc::bad_state, "2 key heads of 3", "1 key heads of 3"));
    CHECK(ledger.total().operations == 1); // ranks that compare: one has refused
    a.backward(p, ctx, std::move(saved), g);
    CHECK(says(backward(a, p, saved, g), errc::bad_state, "used already"));
  });
}

} // namespace
} // namespace test_linear_calls
