// Calls of a causal convolution: forms, memory, bytes, and what is refused before anything is sent.
// Tensors of heads and of any strides, queues of threads, states that go from one call to the next, central differences.
#include <doctest/doctest.h>

#include <map>
#include <set>

#include <sp/workers.hpp>

#include "linear/conv1d_trial.hpp"
#include "support/exact_workspace.hpp"
#include "support/failure.hpp"

namespace test_conv1d_calls {
namespace {

using namespace conv1d_trial;
using sp::errc;
using support::failure_of;
using support::says;

using options = sp::conv1d_options;
template <int R>
using tensor = sp::view<double, R>;

scene packed_scene(std::initializer_list<index_t> cu_seqlens, index_t width = 4) {
  scene s{sp::packed(cu_seqlens), width};
  s.silu = s.bias = s.initial = s.final = true;
  return s;
}

TEST_CASE("conv1d: prime-rl#3003: packed boundaries: nothing of one document reaches another, forward or backward [asan]") {
  std::mt19937 random(7);
  scene const s = packed_scene({0, 5, 6, 6, 13, 15, 30});
  cut const cuts[] = {
      {.parts = 3}, {.parts = 4, .how = {support::any_sharding::zigzag}}, {.parts = 3, .how = {support::any_sharding::striped}}};
  inputs const in = draw<double>(s, random);
  std::size_t const row = at(s.channels);
  for (cut const& k : cuts) {
    bool agreed = false;
    results const before = joined(s, k, run<double>(s, k, in), agreed);
    for (std::size_t j = 0; j < 30; ++j) { // token j becomes NaN, and so does its dout
      inputs changed = in;
      std::size_t d = 0;
      while (!s.docs[d].holds(index_t(j))) ++d;
      for (std::size_t c = 0; c < row; ++c) changed.x[j * row + c] = rubbish;
      results const after = joined(s, k, run<double>(s, k, changed), agreed);
      inputs other = in;
      for (std::size_t c = 0; c < row; ++c) other.dout[j * row + c] = rubbish;
      results const gradients = joined(s, k, run<double>(s, k, other), agreed);
      bool kept = true, seen = true;
      for (std::size_t i = 0; i < 30 * row; ++i) {
        bool const own = s.docs[d].holds(index_t(i / row));
        index_t const behind = index_t(i / row) - index_t(j);
        bool const reads = own && behind >= 0 && behind < s.width, read = own && behind <= 0 && -behind < s.width;
        kept = kept && (reads || after.out[i] == before.out[i]) && (read || gradients.dx[i] == before.dx[i]);
        seen = seen && (!reads || std::isnan(after.out[i])) && (!read || std::isnan(gradients.dx[i]));
      }
      CHECK(kept);
      CHECK(seen);
    }
  }
}

#ifndef SP_TEST_SANITIZED // no tagged case is below
TEST_CASE("conv1d: a pass sends what readers lack, each row once for each of them, and what final states hold to everybody") {
  std::mt19937 random(8);
  for (int i = 0; i < 24; ++i) {
    scene s = packed_scene({0, 1, 14, 14, 40}, 1 + i % 6);
    s.final = i % 2;
    cut k{.parts = 1 + i % 5};
    k.how.kind = i % 3;
    inputs const in = draw<float>(s, random);
    auto const parts = run<sp::bf16>(s, k, in);
    std::map<index_t, int> owner;
    for (int p = 0; p < k.parts; ++p) {
      sp::batch const b(s.docs, k.how, p, k.parts);
      sp::for_each_row(b, [&](sp::local_row const& r) { owner[s.docs[r.document].begin + r.offset] = p; });
    }
    std::vector<index_t> sent(at(k.parts)), taken(sent), ends(sent);
    index_t all_ends = 0;
    for (int p = 0; p < k.parts; ++p) {
      std::set<index_t> lacks;
      for (auto const& d : s.docs)
        for (index_t t = 0; t < d.count; ++t)
          for (index_t k2 = 1; k2 < s.width && owner[d.begin + t] == p; ++k2)
            if (t >= k2 && owner[d.begin + t - k2] != p) lacks.insert(d.begin + t - k2);
      for (index_t position : lacks) ++sent[at(owner[position])], ++taken[at(p)];
    }
    for (auto const& d : s.docs)
      for (index_t t = std::max<index_t>(0, d.count - s.reach()); t < d.count; ++t) ++ends[at(owner[d.begin + t])], ++all_ends;
    for (int p = 0; p < k.parts; ++p) {
      index_t const mine = ends[at(p)];
      CHECK(parts[at(p)].forward_bytes == 2 * s.channels * (sent[at(p)] + (s.final ? (k.parts - 1) * mine : 0)));
      CHECK(parts[at(p)].backward_bytes == 4 * s.channels * (taken[at(p)] + (s.final ? all_ends - mine : 0)));
    }
  }
}

TEST_CASE("conv1d: gradients are those of central differences") {
  std::mt19937 random(9);
  scene const s = packed_scene({0, 2, 7}, 3);
  cut const k{.parts = 3};
  inputs const in = draw<double>(s, random);
  bool agreed = false;
  results const found = joined(s, k, run<double>(s, k, in), agreed);
  auto loss = [&](inputs const& i) {
    results const r = joined(s, k, run<double>(s, k, i), agreed);
    double sum = 0;
    for (std::size_t n = 0; n < r.out.size(); ++n) sum += r.out[n] * in.dout[n];
    for (std::size_t n = 0; n < r.final.size(); ++n) sum += r.final[n] * in.dfinal[n];
    return sum;
  };
  auto check = [&](numbers inputs::*what, numbers const& gradient) {
    for (std::size_t n = 0; n < gradient.size(); n += 2) {
      inputs more = in, less = in;
      (more.*what)[n] += 1e-4, (less.*what)[n] -= 1e-4;
      CHECK((loss(more) - loss(less)) / 2e-4 == doctest::Approx(gradient[n]).epsilon(1e-6).scale(1));
    }
  };
  check(&inputs::x, found.dx);
  check(&inputs::weights, found.dweights);
  check(&inputs::bias, found.dbias);
  check(&inputs::initial, found.dinitial);
}

TEST_CASE("conv1d: many channels, heads of any strides and threads give the bits of one row-major tensor") {
  std::mt19937 random(10);
  scene s = packed_scene({0, 300, 611});
  s.channels = 2 * 290;
  inputs const in = draw<float>(s, random);
  bool agreed = false;
  cut k{.parts = 2, .how = {support::any_sharding::zigzag}};
  results const flat = joined(s, k, run<float>(s, k, in), agreed);
  CHECK(agreed);
  CHECK(error(s, flat, oracle(s, in)) < 1e-4);

  sp::batch const b(s.docs, sp::contiguous{}, 0, 1);
  index_t const n = 611, heads = 2, dim = 290, gap = 3; // heads outermost, and every third number is one
  std::vector<float> x(at(gap * n * s.channels)), out(x), dout(x), dx(x),
      weights = as<float>(in.weights), bias = as<float>(in.bias), initial = as<float>(in.initial), final(initial), dw(weights),
      db(bias), dinitial(initial), dfinal = as<float>(in.dfinal);
  auto place = [&](index_t t, index_t c) { return at(gap * ((c / dim) * n * dim + t * dim + c % dim)); };
  for (index_t t = 0; t < n; ++t)
    for (index_t c = 0; c < s.channels; ++c)
      x[place(t, c)] = float(in.x[at(t * s.channels + c)]), dout[place(t, c)] = float(in.dout[at(t * s.channels + c)]);
  auto strided = [&](std::vector<float>& v) {
    return sp::view<float, 3>(v.data(), {n, heads, dim}, {gap * dim, gap * n * dim, gap});
  };
  auto states = [&](std::vector<float>& v) { return sp::view<float, 3>(v.data(), 2, s.reach(), s.channels); };
  sp::view<float, 2> const w(weights.data(), s.channels, s.width);
  sp::view<float, 1> const bs(bias.data(), s.channels);
  sp::causal_conv1d conv{sp::solo{}, options{.width = s.width, .activation = sp::activation::silu}};
  sp::workers const threads(2);
  sp::pool memory;
  sp::context const ctx(threads, memory, memory);
  auto const p = conv.prepare(b, ctx);
  auto saved = conv.forward(p, ctx,
                            {.x = strided(x),
                             .weights = w,
                             .bias = bs,
                             .out = strided(out),
                             .initial_state = states(initial),
                             .final_state = states(final)});
  conv.backward(p, ctx, std::move(saved),
                {.x = strided(x),
                 .weights = w,
                 .bias = bs,
                 .dout = strided(dout),
                 .dx = strided(dx),
                 .dweights = sp::view<float, 2>(dw.data(), s.channels, s.width),
                 .dbias = sp::view<float, 1>(db.data(), s.channels),
                 .initial_state = states(initial),
                 .dinitial_state = states(dinitial),
                 .dfinal_state = states(dfinal)});
  bool same = true;
  results strange = flat;
  for (index_t t = 0; t < n; ++t)
    for (index_t c = 0; c < s.channels; ++c) {
      std::size_t const i = at(t * s.channels + c);
      same = same && double(out[place(t, c)]) == flat.out[i];
      strange.dx[i] = dx[place(t, c)];
    }
  CHECK(same);
  strange.dweights = back(dw), strange.dbias = back(db), strange.dinitial = back(dinitial), strange.final = back(final);
  CHECK(error(s, strange, oracle(s, in)) < 1e-4);
}

TEST_CASE(
    "conv1d: a document in pieces, each with the state of the one before, is the whole document, and so are its gradients") {
  std::mt19937 random(11);
  scene s = packed_scene({0, 12});
  inputs in = draw<double>(s, random);
  scene head = s, tail = s;
  head.docs = sp::packed{0, 2}, tail.docs = sp::packed{0, 10}; // the first piece is shorter than the filter
  auto part_of = [&](index_t first, index_t count) {
    inputs piece = in;
    auto rows = [&](numbers const& v) {
      return numbers(v.begin() + first * s.channels, v.begin() + (first + count) * s.channels);
    };
    piece.x = rows(in.x), piece.dout = rows(in.dout);
    return piece;
  };
  bool agreed = false;
  cut const k{.parts = 2};
  auto pass = [&](scene const& of, inputs const& i) { return joined(of, k, run<double>(of, k, i), agreed); };
  inputs first = part_of(0, 2), second = part_of(2, 10);
  second.initial = pass(head, first).final;
  results const b = pass(tail, second), whole = pass(s, in);
  first.dfinal = b.dinitial;
  results const a = pass(head, first);
  CHECK(b.final == whole.final);
  CHECK(error(a.dinitial, whole.dinitial) < 1e-14);
  numbers out = a.out, dx = a.dx, dw = a.dweights;
  out.insert(out.end(), b.out.begin(), b.out.end()), dx.insert(dx.end(), b.dx.begin(), b.dx.end());
  for (std::size_t i = 0; i < dw.size(); ++i) dw[i] += b.dweights[i];
  CHECK(out == whole.out);
  CHECK(error(dx, whole.dx) < 1e-14);
  CHECK(error(dw, whole.dweights) < 1e-13);
}

TEST_CASE(
    "conv1d: short forms keep the plan with the batch, calls fit into the bytes that were asked for, level 2 compares ranks") {
  sp::threads::run(3, [](sp::threads const& c) {
    sp::batch const b(sp::packed{0, 9, 20}, sp::zigzag{}, c);
    index_t const n = b.tokens(), channels = 5;
    std::vector<double> x(at(n * channels), 0.5), out(x), again(x), dx(x), w(20, 0.25), dw(20), db(5), final(30);
    tensor<2> const vx(x.data(), n, channels), vo(out.data(), n, channels), vw(w.data(), channels, 4),
        va(again.data(), n, channels), vd(dx.data(), n, channels);
    for (int checks : {1, 2}) {
      sp::causal_conv1d const conv{c, options{.checks = checks}}, twin{c, options{.checks = checks}};
      auto saved = conv.forward(b, {.x = vx, .weights = vw, .out = vo});
      conv.backward(b, std::move(saved),
                    {.x = vx, .weights = vw, .dout = vo, .dx = vd, .dbias = sp::view<double, 1>(db.data(), 5)});
      conv.infer(b, {.x = vx, .weights = vw, .out = va});
      bool good = again == out && &*conv.prepared_for(b) == &*conv.prepared_for(b) &&
                  (&*conv.prepared_for(b) == &*twin.prepared_for(b)) == (checks < 2);

      sp::causal_conv1d const narrow{c, options{.width = 2, .checks = checks}}; // two widths on one batch
      good = good && &*narrow.prepared_for(b) != &*conv.prepared_for(b) &&
             narrow.prepared_for(b)->rows_sent() <= conv.prepared_for(b)->rows_sent();

      auto const p = conv.prepare(b);
      std::vector<std::byte> bytes(std::size_t(conv.scratch_bytes<double>(p, channels) + 64)),
          kept(std::size_t(conv.saved_bytes<double>(p, channels) + 64));
      sp::workspace scratch(bytes.data(), bytes.size()), keep(kept.data(), kept.size());
      sp::context const ctx(scratch, keep);
      sp::conv1d_operands<double> const all{
          .x = vx, .weights = vw, .out = va, .final_state = tensor<3>(final.data(), 2, 3, channels)};
      conv.infer(p, ctx, all);
      auto s = conv.forward(p, ctx, all);
      conv.backward(p, ctx, std::move(s),
                    {.x = vx,
                     .weights = vw,
                     .dout = vo,
                     .dx = vd,
                     .dweights = tensor<2>(dw.data(), channels, 4),
                     .dfinal_state = tensor<3>(final.data(), 2, 3, channels)});
      good = good && again == out;
      if (checks == 2) {
        sp::causal_conv1d const other{
            c, options{.width = 4, .activation = c.rank() == 1 ? sp::activation::silu : sp::activation::none, .checks = 2}};
        auto const e = failure_of([&] { return other.prepare(b); });
        good = good && says(e, errc::rank_mismatch, "activation");
        auto refused = [&](auto change) { // by rank 1 alone
          sp::conv1d_operands<double> o{.x = vx, .weights = vw, .out = va};
          if (c.rank() == 1) change(o);
          return failure_of([&] { return conv.infer(b, o), 0; });
        };
        good = good && says(refused([&](auto& o) { o.bias = sp::view<double, 1>(db.data(), channels); }), errc::rank_mismatch,
                            "rank 1 differs from ranks 0, 2 in bias: 1 against 0");
        good = good && says(refused([&](auto& o) { o.initial_state = tensor<3>(final.data(), 2, 3, channels); }),
                            errc::rank_mismatch, "rank 1 differs from ranks 0, 2 in initial state: 1 against 0");
      }
      CHECK(good);
    }
  });
}

/// Three ranks, each with two calls' tensors of 128 channels; rank 1 is the one that is to be refused.
struct level_2_rank {
  static constexpr index_t channels = 128, docs = 2;
  sp::threads const& c;
  sp::batch b{sp::packed{0, 9, 20}, sp::zigzag{}, c};
  index_t n = b.tokens();
  std::vector<double> x = numbers(at(n * channels), 0.5), w = numbers(at(channels * 4), 0.25), bias = numbers(at(channels), 1.5),
                      out = numbers(x.size(), rubbish), dx = out, dw = numbers(w.size(), rubbish),
                      states = numbers(at(docs * 3 * channels), 0.75), ends = states;

  tensor<2> rows(std::vector<double>& v) const { return {v.data(), n, channels}; }
  tensor<3> state(std::vector<double>& v) const { return {v.data(), docs, 3, channels}; }
  sp::conv1d_operands<double> forward() { return {.x = rows(x), .weights = tensor<2>(w.data(), channels, 4), .out = rows(out)}; }
  sp::conv1d_gradients<double> backward() {
    return {.x = rows(x),
            .weights = tensor<2>(w.data(), channels, 4),
            .dout = rows(x),
            .dx = rows(dx),
            .dweights = tensor<2>(dw.data(), channels, 4)};
  }
  /// An error of this rank, or the word of it.
  bool refused_by_rank_1(sp::error_info const& e, errc code, std::string const& problem, char const* call) const {
    std::string const told = "rank 1 refused causal_conv1d." + std::string(call) + " with " + sp::name(code);
    return c.rank() == 1 ? says(e, code, problem) : says(e, errc::rank_mismatch, told);
  }
};
inline constexpr sp::threads_options patience{.deadline = std::chrono::seconds(10)};

TEST_CASE("conv1d: a call without room is refused before anything is sent, from level 2 on by all, and made again") {
  auto check = [](sp::threads const& c, int checks) {
    level_2_rank r{c};
    sp::causal_conv1d const conv{c, options{.checks = checks}};
    auto const p = conv.prepare(r.b);
    index_t const needed = conv.scratch_bytes<double>(p, r.channels);
    support::exact_workspace little(needed - 64), enough(needed);
    sp::pool memory;
    sp::context const roomy(memory, memory), tight(little.space, memory), fits(enough.space, memory);
    bool good = needed - 64 > (checks > 1 ? sp::agreement_scratch(3) : 0);
    auto refuses = [&](char const* call, auto&& attempt) {
      if (checks < 2 && c.rank() != 1) return;
      auto const e = failure_of([&] { return attempt(c.rank() == 1 ? tight : fits), 0; });
      good = good && r.refused_by_rank_1(e, errc::workspace_too_small, "up to " + std::to_string(needed) + " bytes", call);
    };
    conv.backward(p, roomy, conv.forward(p, roomy, r.forward()), r.backward());
    auto const out = r.out, dx = r.dx, dw = r.dw;
    for (auto* v : {&r.out, &r.dx, &r.dw}) std::fill(v->begin(), v->end(), rubbish);
    refuses("forward", [&](auto const& ctx) { static_cast<void>(conv.forward(p, ctx, r.forward())); });
    auto saved = conv.forward(p, fits, r.forward());
    refuses("backward", [&](auto const& ctx) { conv.backward(p, ctx, std::move(saved), r.backward()); });
    conv.backward(p, fits, std::move(saved), r.backward());
    CHECK(good);
    CHECK((r.out == out && r.dx == dx && r.dw == dw));
  };
  for (int checks : {1, 2})
    sp::threads::run(
        3, [&](sp::threads const& c) { check(c, checks); }, patience);
}

TEST_CASE("conv1d: states whose rows are not equally far apart are refused on all ranks together, and nobody waits") {
  auto check = [](sp::threads const& c) {
    level_2_rank r{c};
    sp::causal_conv1d const conv{c, options{.checks = 2}};
    sp::pool memory;
    sp::context const ctx(memory, memory);
    auto const p = conv.prepare(r.b);
    std::vector<double> dstates = r.states;
    auto rows_first = [&](std::vector<double>& v) { // strides of documents and rows exchanged
      return tensor<3>(v.data(), {r.docs, 3, r.channels}, {r.channels, r.docs * r.channels, 1});
    };
    auto o = r.forward();
    auto g = r.backward();
    o.final_state = r.state(r.ends), o.initial_state = g.initial_state = r.state(r.states);
    auto saved = conv.forward(p, ctx, o);
    bool good = true;
    auto refused = [&](char const* call, char const* name, auto&& attempt) {
      auto const e = failure_of([&] { return attempt(), 0; });
      good = good && r.refused_by_rank_1(e, errc::invalid_shape, std::string(name) + " (2, 3, 128) has strides of 128", call);
    };
    auto forward = [&](char const* name, auto member, std::vector<double>& v) {
      auto other = o;
      if (c.rank() == 1) other.*member = rows_first(v);
      refused("forward", name, [&] { conv.infer(p, ctx, other); });
    };
    auto backward = [&](char const* name, auto member, std::vector<double>& v) {
      auto other = g;
      other.dinitial_state = r.state(dstates), other.dfinal_state = r.state(r.ends);
      if (c.rank() == 1) other.*member = rows_first(v);
      refused("backward", name, [&] { conv.backward(p, ctx, std::move(saved), other); });
    };
    forward("final_state", &sp::conv1d_operands<double>::final_state, r.ends);
    forward("initial_state", &sp::conv1d_operands<double>::initial_state, r.states);
    backward("dfinal_state", &sp::conv1d_gradients<double>::dfinal_state, r.ends);
    backward("dinitial_state", &sp::conv1d_gradients<double>::dinitial_state, dstates);
    conv.backward(p, ctx, std::move(saved), g);
    CHECK(good);
  };
  sp::threads::run(3, check, patience);
}

TEST_CASE("conv1d: from level 2 on ranks compare in backward what they gave forward, and of which call it is") {
  auto check = [](sp::threads const& c) {
    level_2_rank r{c};
    sp::causal_conv1d const conv{c, options{.checks = 2}};
    sp::pool memory;
    sp::context const ctx(memory, memory);
    auto const p = conv.prepare(r.b);
    auto o = r.forward(), more = o;
    auto g = r.backward(), of_more = g;
    more.bias = of_more.bias = tensor<1>(r.bias.data(), r.channels);
    more.initial_state = of_more.initial_state = r.state(r.states);
    auto first = conv.forward(p, ctx, more), second = conv.forward(p, ctx, o);
    auto const e = failure_of([&] {
      bool const other = c.rank() == 1;
      return conv.backward(p, ctx, std::move(other ? first : second), other ? of_more : g), 0;
    });
    bool const told = says(e, errc::rank_mismatch, "rank 1 differs from ranks 0, 2 in number of the forward call: 1 against 2",
                           "(also in bias, initial state)");
    CHECK(told);
    conv.backward(p, ctx, std::move(second), g);
    conv.backward(p, ctx, std::move(first), of_more);
  };
  sp::threads::run(3, check, patience);
}

TEST_CASE("conv1d: over other memory than the host's a plan takes a context") {
  auto const said = support::on_all_ranks<support::late_place>(2, [](support::late_place& here) {
    sp::batch const b(sp::packed{0, 3, 6}, sp::contiguous{}, here.comm);
    sp::causal_conv1d const conv{here.comm};
    return int(says(failure_of([&] { return conv.prepare(b); }), errc::unsupported, "memory of a queue"));
  });
  CHECK(said == std::vector<int>{1, 1});
}

TEST_CASE("conv1d: what does not fit is refused with both numbers, before anything is sent") {
  sp::ledger ledger;
  sp::counting const comm(sp::solo{}, ledger);
  sp::causal_conv1d const conv{comm, options{}}, wide{comm, options{.width = 5}}, compared{comm, options{.checks = 2}};
  sp::batch const b(sp::packed{0, 3, 6}, sp::contiguous{}, 0, 1), other(sp::packed{0, 3, 6}, sp::contiguous{}, 0, 1);
  sp::batch const of_two(sp::packed{0, 3, 6}, sp::contiguous{}, 1, 2);
  sp::pool memory;
  sp::context const ctx(memory, memory);
  auto const p = conv.prepare(b);
  std::vector<double> v(100), y(100), z(100);
  tensor<2> const x(v.data(), 6, 2), out(y.data(), 6, 2), dx(z.data(), 6, 2), w(v.data() + 50, 2, 4);
  using operands = sp::conv1d_operands<double>;
  using gradients = sp::conv1d_gradients<double>;
  auto refused = [&](operands const& o) { return failure_of([&] { return conv.infer(p, ctx, o), 0; }); };
  operands good{.x = x, .weights = w, .out = out};
  auto with = [&](auto change) {
    operands o = good;
    change(o);
    return refused(o);
  };
  CHECK(
      says(failure_of([&] { return sp::causal_conv1d(comm, {.width = 0}).group().rank(); }), errc::invalid_shape, "width of 0"));
  CHECK(says(failure_of([&] { return sp::causal_conv1d(comm, {.activation = sp::activation(2)}).group().rank(); }),
             errc::unsupported, "no activation number 2"));
  CHECK(says(failure_of([&] { return conv.prepare(of_two); }), errc::invalid_shape, "rank 1 of 2", "rank 0 of 1"));
  CHECK(says(with([&](operands& o) { o.x = {}; }), errc::bad_pointer, "x is missing"));
  CHECK(says(with([&](operands& o) { o.x = tensor<2>(v.data(), 5, 2); }), errc::invalid_shape, "x has 5 rows", "owns 6"));
  CHECK(says(with([&](operands& o) { o.weights = tensor<2>(v.data(), 3, 4); }), errc::invalid_shape, "(3, 4)", "2 channels",
             "width of 4"));
  CHECK(says(with([&](operands& o) { o.weights = tensor<2>(nullptr, 2, 4); }), errc::bad_pointer, "weights (2, 4) is null"));
  CHECK(says(with([&](operands& o) { o.out = tensor<2>(y.data(), 6, 3); }), errc::invalid_shape, "(6, 1, 3)", "(6, 1, 2)"));
  CHECK(says(with([&](operands& o) { o.out = x; }), errc::aliasing, "out overlaps x"));
  CHECK(says(with([&](operands& o) { o.bias = tensor<1>(v.data(), 3); }), errc::invalid_shape, "bias (3)", "2 channels"));
  CHECK(says(with([&](operands& o) { o.final_state = tensor<3>(z.data(), 2, 4, 2); }), errc::invalid_shape, "(2, 4, 2)",
             "3 rows of state"));
  CHECK(says(with([&](operands& o) { o.initial_state = tensor<3>(z.data(), 1, 3, 2); }), errc::invalid_shape, "(1, 3, 2)",
             "2 documents"));
  CHECK(says(failure_of([&] { return wide.infer(p, ctx, good), 0; }), errc::bad_state, "width of 4", "has 5"));
  CHECK(says(failure_of([&] { return compared.infer(p, ctx, good), 0; }), errc::bad_state, "level below 2"));
  CHECK(says(failure_of([&] { return conv.infer(decltype(conv)::prepared{}, ctx, good), 0; }), errc::bad_state,
             "not made by prepare"));
  auto const asked = failure_of([&] { return wide.scratch_bytes<double>(p, 2); });
  CHECK(says(asked, errc::bad_state, "width of 4", "has 5"));
  CHECK(asked.primitive == "causal_conv1d.scratch_bytes");
  CHECK(says(failure_of([&] { return compared.scratch_bytes<double>(p, 2); }), errc::bad_state, "level below 2"));
  CHECK(says(failure_of([&] { return conv.scratch_bytes<double>({}, 2); }), errc::bad_state, "not made by prepare"));
  CHECK(says(failure_of([&] { return conv.saved_bytes<double>({}, 2); }), errc::bad_state, "not made by prepare"));
  CHECK(says(failure_of([&] { return conv.saved_bytes<double>(p, -1); }), errc::invalid_shape, "-1 channels"));
  sp::threads::run(2, [&](sp::threads const& two) { // a plan of another group
    if (two.rank() != 1) return;
    sp::causal_conv1d const there{two, options{}};
    auto const e = failure_of([&] { return there.infer(p, ctx, good), 0; });
    CHECK(says(e, errc::bad_state, "this plan of a convolution was made by rank 0 of 1", "this is rank 1 of 2"));
  });

  gradients const g{.x = x, .weights = w, .dout = out, .dx = dx};
  auto backward = [&](auto const& object, auto const& plan, auto&& saved, gradients const& o) {
    return failure_of([&] { return object.backward(plan, ctx, std::move(saved), o), 0; });
  };
  auto saved = conv.forward(p, ctx, good);
  CHECK(says(backward(sp::causal_conv1d{comm, options{}}, p, saved, g), errc::bad_state, "another object"));
  CHECK(says(backward(conv, conv.prepare(other), saved, g), errc::bad_state, "another batch", std::to_string(b.serial()).c_str(),
             std::to_string(other.serial()).c_str()));
  gradients bad = g;
  bad.bias = tensor<1>(v.data(), 2);
  CHECK(says(backward(conv, p, saved, bad), errc::bad_state, "forward was given no bias, backward one"));
  bad = g, bad.dfinal_state = sp::view<double const, 3>(v.data(), 2, 3, 2);
  CHECK(says(backward(conv, p, saved, bad), errc::bad_state, "no final state"));
  bad = g, bad.dinitial_state = tensor<3>(z.data() + 50, 2, 3, 2);
  CHECK(says(backward(conv, p, saved, bad), errc::bad_state, "without an initial state"));
  bad = g, bad.dx = tensor<2>(y.data(), 6, 2);
  CHECK(says(backward(conv, p, saved, bad), errc::aliasing, "dx overlaps dout"));
  bad = g, bad.x = tensor<2>(v.data(), 6, 1), bad.weights = tensor<2>(v.data() + 50, 1, 4), bad.dout = tensor<2>(y.data(), 6, 1),
  bad.dx = tensor<2>(z.data(), 6, 1);
  CHECK(says(backward(conv, p, saved, bad), errc::bad_state, "2 channels, backward 1"));
  CHECK(ledger.of("causal_conv1d").operations == 1); // forward's
  conv.backward(p, ctx, std::move(saved), g);
  CHECK(says(backward(conv, p, saved, g), errc::bad_state, "used already"));
}
#endif

} // namespace
} // namespace test_conv1d_calls
