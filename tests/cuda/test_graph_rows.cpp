// What moves tokens and sums losses in captured graphs, over a fake of the runtime: rows, labels, weights, gathers, relayouts, losses and
// sums over ranks, and their gradients, compute on what the tensors hold when the graph is launched. What check levels 2 and 3 do on the
// host is refused in a capture; cu_seqlens that are on the device come by a call that waits.
// needs: context cuda
// with all: takes long to compile
#include "cuda/replayed.hpp"

#include <sp/collective.hpp>
#include <sp/gather_loss.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/reference.hpp>
#include <sp/relayout.hpp>
#include <sp/ring.hpp>

#include "support/failure.hpp"

namespace test_graph_rows {

using cuda_tests::counted_pool;
using cuda_tests::cuda_queue;
using cuda_tests::graph;
using cuda_tests::place;
using cuda_tests::same_when_replayed;
using sp::device_memory;
using sp::errc;
using sp::index_t;
using support::interleaving;

namespace {

using comm = sp::cuda_local;
constexpr int ignored = -7;

/// One rank's rows, from the stream to the gradient of the loss.
class rows_program {
  template <class T, int R>
  using tensor = support::pool_tensor<T, R, counted_pool>;

public:
  bool captured = false;

  rows_program(comm const& c, counted_pool& m, sp::documents const& docs)
      : c_(c), b_(docs, sp::zigzag{}, c), other_(docs, sp::contiguous{sp::scope::stream}, c), queue_(c.queue()), gather_(c),
        loss_(c, sp::averaged{2}, {.ignore_index = ignored}),
        move_(b_.layout(), other_.layout(), sp::document_map(b_.docs(), other_.docs()), b_.part()), plan_(gather_.prepare(b_)),
        n_(docs.length()), mine_(b_.tokens()), theirs_(other_.tokens()), tokens(m, {n_}), labels(m, {mine_}),
        in_document(m, {mine_}), weights(m, {mine_}), rows(m, {n_, 3}), local(m, {mine_, 3}), gathered(m, {n_, 3}),
        dlocal(m, {mine_, 3}), moved(m, {theirs_, 3}), back(m, {mine_, 3}), summed(m, {mine_, 3}), losses(m, {mine_}),
        dlosses(m, {mine_}), sum(m, {7}), share(m, {7}), told(m, {7}), parts(m, {7 * c.size()}) {
    landing_ = move_.transposed_table(sp::context(queue_, m, m));
  }

  void fill(unsigned seed) {
    std::mt19937 g(seed), common(seed / 10); // tokens are the same on all ranks
    auto pick = [](auto& from, auto& x, auto const& rule) {
      using T = std::remove_pointer_t<std::remove_cvref_t<decltype(x->data)>>;
      std::vector<T> values(std::size_t(x->elements()));
      for (T& v : values) v = T(rule(from));
      x.upload(values);
    };
    auto number = [](auto& from) { return double(from() % 2001) / 16 - 60; };
    pick(common, tokens, [](auto& from) { return from() % 4 ? int(from() % 900) : ignored; });
    pick(common, rows, number);
    for (auto* x : {&sum, &share, &told, &parts, &losses}) pick(g, *x, number);
    for (auto* x : {&local, &gathered, &dlocal, &moved, &back, &summed}) pick(g, *x, [](auto&) { return 77; });
    for (auto* x : {&weights, &dlosses}) pick(g, *x, [](auto&) { return 77; });
    pick(g, labels, [](auto&) { return 77; }), pick(g, in_document, [](auto&) { return 77; });
  }
  template <class Context>
  void step(Context const& ctx) {
    sp::shifted_labels(queue_, b_, *tokens, *labels, ignored);
    sp::positions(queue_, b_, *in_document);
    sp::loss_weights(queue_, b_, *labels, *weights, ignored);
    sp::split(queue_, b_, *rows, *local, 2.0F);
    gather_.forward(b_, plan_, ctx, *local, *gathered, 3.0F);
    gather_.backward(b_, ctx, *gathered, *dlocal);
    move_.apply(c_, ctx, *local, *moved, 5.0F);
    move_.apply_transposed(c_, ctx, *moved, *back);
    move_.apply_transposed(c_, ctx, *moved, *summed, &landing_);
    loss_of_step_.reset();
    loss_of_step_.emplace(loss_.forward(ctx, *losses, *labels));
    loss_.backward(ctx, *loss_of_step_, *labels, *dlosses, 0.75);
    sums_over_ranks(ctx);
  }
  std::vector<std::vector<double>> results() const {
    std::vector<std::vector<double>> list;
    auto note = [&](auto const&... all) {
      auto one = [&](auto const& values) { list.emplace_back(values.begin(), values.end()); };
      (one(all.download()), ...);
    };
    note(labels, in_document, weights, local, gathered, dlocal, moved, back, summed, dlosses, sum, share, told);
    sp::loss_result const r = sp::read(queue_, *loss_of_step_); // of the graph: what its last launch computed
    list.push_back({r.loss, double(r.num_tokens), r.scale});
    return list;
  }
  index_t scratch() const { return 1 << 16; }
  void forget() { loss_of_step_.reset(); }

private:
  template <class Context>
  void sums_over_ranks(Context const& ctx) {
    std::vector<sp::view<float, 1, device_memory>> views;
    for (int r = 0; r < c_.size(); ++r) views.push_back((*parts).rows(7 * r, 7));
    sp::all_reduce(c_, *sum, ctx).wait();
    sp::reduce_scatter(c_, views, *share, ctx).wait();
    sp::piece const from_last = sp::as_piece(*told);
    sp::broadcast(c_, {&from_last, 1}, c_.size() - 1, ctx.queue).wait();
    sp::barrier(c_, ctx).wait();
  }

  comm const& c_;
  sp::batch b_, other_;
  cuda_queue queue_;
  sp::gather_tokens<comm> gather_;
  sp::gather_loss<comm, sp::averaged> loss_;
  sp::relayout move_;
  sp::gather_tokens<comm>::prepared plan_;
  sp::landing_table<device_memory> landing_;
  index_t n_, mine_, theirs_;
  tensor<int, 1> tokens, labels;
  tensor<index_t, 1> in_document;
  tensor<float, 1> weights;
  tensor<float, 2> rows, local, gathered, dlocal, moved, back, summed;
  tensor<float, 1> losses, dlosses, sum, share, told, parts;
  std::optional<sp::queued_loss<device_memory>> loss_of_step_;
};

} // namespace

TEST_CASE("cuda graphs: labels, gathers, relayouts, losses and sums over ranks are replayed on what the tensors hold then") {
  for (int n = 0; n < 3; ++n) {
    CAPTURE(n);
    same_when_replayed(4 - n, interleaving(n), [&](comm const& c, counted_pool& m) {
      return std::make_unique<rows_program>(c, m, n == 1 ? sp::packed{0, 1, 5, 5, 30} : sp::packed{0, 9, 17, 31});
    });
  }
}

TEST_CASE("cuda graphs: check levels 2 and 3 are refused in a capture, with a sentence, and work behind it") {
  cuda_tests::rank_streams const streams(1, 3, interleaving::random);
  sp::cuda_local::run(
      1,
      [&](comm const& c) {
        counted_pool memory(c.queue());
        sp::context const ctx(c.queue(), memory, memory);
        sp::batch const b(sp::packed{0, 4, 9}, sp::contiguous{}, c);
        cuda_tests::step_tensors<double> x(memory, 9, 9, {2, 2, 3});
        support::pool_tensor<float, 1, counted_pool> losses(memory, {9}, std::vector<float>(9, 1)),
            rows(memory, {9}, std::vector<float>(9, 1)), moved(memory, {9}, std::vector<float>(9, 1));
        support::pool_tensor<int, 1, counted_pool> labels(memory, {9}, std::vector<int>(9, 1));
        x.fill(1);
        for (int level : {2, 3}) {
          CAPTURE(level);
          sp::ring_attention const ring{c, sp::basic_reference<device_memory>{}, {.checks = level}};
          sp::gather_loss const loss{c, sp::summed{}, {.checks = level}};
          sp::gather_tokens const gather{c, {.checks = level}};
          sp::relayout const move(b.layout(), b.layout(), sp::document_map(b.docs(), b.docs()), 0, {.checks = level});
          auto prepared = ring.prepare(b, ctx);
          auto const plan = gather.prepare(b, ctx);
          auto forward = [&] { return ring.forward(prepared, ctx, *x.q, *x.k, *x.v, *x.out); };
          auto saved = forward();
          auto backward = [&] {
            ring.backward(prepared, ctx, std::move(saved), *x.q, *x.k, *x.v, *x.out, *x.dout, *x.dq, *x.dk, *x.dv);
          };
          auto const queued = loss.forward(ctx, *losses, *labels);
          auto calls = std::tuple{[&] { static_cast<void>(forward()); },
                                  backward,
                                  [&] { ring.refresh(prepared, b, ctx); },
                                  [&] { static_cast<void>(loss.forward(ctx, *losses, *labels)); },
                                  [&] { gather.forward(b, plan, ctx, *rows, *moved); },
                                  [&] { move.apply(c, ctx, *rows, *moved); },
                                  [&] { move.apply_transposed(c, ctx, *rows, *moved); }};
          auto refused = [&](auto const& call, char const* problem) {
            c.queue().synchronize();
            graph const none(c.queue().stream(), [&] {
              auto const e = support::failure_of([&] { return call(), 0; });
              CHECK(support::says(e, errc::bad_state, problem));
              CHECK(e.remedy != "");
            });
            CHECK(none.end() == cudaSuccess); // the capture goes on: nothing of the call was given
          };
          std::apply(
              [&](auto const&... call) { (refused(call, "from check level 2 on ranks compare their calls on the host"), ...); },
              calls);
          if (level == 3) refused([&] { loss.backward(ctx, queued, *labels, *rows); }, "from check level 2 on");
          ring.refresh(prepared, b, ctx);
          auto anew = forward();
          ring.backward(prepared, ctx, std::move(anew), *x.q, *x.k, *x.v, *x.out, *x.dout, *x.dq, *x.dk, *x.dv);
          gather.forward(b, plan, ctx, *rows, *moved);
        }
      },
      conformance::patient(), [&](int rank) { return streams(rank); });
}

TEST_CASE("cuda queue: cu_seqlens on the device come to the host by read, which waits, and are refused in a capture") {
  place p(2);
  auto const offsets = p.block(std::vector<int>{0, 3, 3, 10});
  sp::documents const docs = sp::packed{sp::read(p.queue, offsets.tensor)};
  CHECK((docs.size() == 3 && docs.length() == 10 && docs[2].begin == 3 && docs[1].count == 0));
  sp::documents const with_tail(sp::packed(sp::read(p.queue, offsets.tensor), 12));
  CHECK((with_tail.size() == 3 && with_tail.length() == 12));
  auto const columns = p.block(std::vector<int>{1, 2, 3, 4, 5, 6});
  sp::view<int, 2, device_memory> const odd(columns.tensor.data, {3, 1}, {2, 1});
  CHECK(sp::read(p.queue, odd) == std::vector<int>{1, 3, 5});
  graph const none(p.handle, [&] {
    auto const e = support::failure_of([&] { return sp::read(p.queue, offsets.tensor); });
    CHECK(support::says(e, errc::bad_state, "memory of the host is copied"));
  });
}

} // namespace test_graph_rows
