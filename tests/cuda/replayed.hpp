// A program of ranks in a captured graph, over a fake of the runtime: all ranks are captured from one stream into one graph, and what each
// launch computes is compared, bit by bit, with the same program given to the queues on the same inputs.
#pragma once

#include <barrier>
#include <mutex>

#include "cuda/ranks.hpp"

namespace cuda_tests {

/// make(communicator, memory) -> what a rank does:
///
///     fill(seed)       other inputs for each seed, and results that nobody has computed
///     step(context)    the work
///     results()        lists of numbers, as the host reads them
///     scratch()        bytes of scratch that a step takes at most
///     captured         bool: step() is being captured
///     step_of_other(context), refresh(context)   where `refreshed`: the work on another batch, and that batch in the place of the first
///
/// `refreshed`: the last launch computes on a batch that was put in the place of the captured one.
template <class Make>
void same_when_replayed(int ranks, interleaving how, Make const& make, bool refreshed = false) {
  rank_streams const streams(ranks, 5, how);
  cuda_tests::place root(99, how);
  std::barrier<> all(ranks);
  std::unique_ptr<graph> captured;
  std::vector<std::optional<cuda_queue::event>> ready(static_cast<std::size_t>(ranks));
  std::mutex checking;
  sp::cuda_local::run(
      ranks,
      [&](sp::cuda_local const& comm) {
        struct leaves { // also a rank that fails: the others go on, and are told
          std::barrier<>& all;
          ~leaves() { all.arrive_and_drop(); }
        } const at_end{all};
        auto const& queue = comm.queue();
        counted_pool memory(queue);
        auto program = make(comm, memory);
        sp::context const eager(queue, memory, memory);
        // scratch and kept belong to the graph
        index_t const bytes = program->scratch();
        support::pool_tensor<char, 1, counted_pool> const scratch_block(memory, {bytes}), kept_block(memory, {1 << 16});
        sp::basic_workspace<device_memory> scratch(scratch_block->data, std::size_t(bytes)), kept(kept_block->data, 1 << 16);
        sp::context const ctx(queue, scratch, kept);
        std::vector<std::vector<std::vector<double>>> expected;
        for (unsigned seed = 0; seed < 4; ++seed) { // the first call warms up
          program->fill(10 * seed + unsigned(comm.rank()));
          bool done = false;
          if constexpr (requires { program->step_of_other(eager); })
            if (seed == 3 && refreshed) program->step_of_other(eager), done = true;
          if (!done) program->step(eager);
          expected.push_back(program->results());
        }
        program->forget();
        int const blocks = memory.blocks_out();
        auto const me = std::size_t(comm.rank());
        auto meet = [&] { all.arrive_and_wait(); };
        auto join = [&] { // on every rank between the same two points of the root
          meet();
          queue.wait(*ready[0]);
          program->captured = true;
          program->step(ctx);
          auto const done = queue.record();
          meet();
          if (me != 0) ready[me] = done;
          meet();
        };
        meet(); // until the capture has ended nobody may wait for a device
        if (me == 0) {
          captured = std::make_unique<graph>(root.handle, [&] {
            ready[0] = root.queue.record();
            join();
            ready[0] = queue.record();
            for (auto const& e : ready) root.queue.wait(*e);
          });
        } else {
          join();
        }
        meet();
        for (unsigned seed : {1u, 2u, 1u, 3u}) {
          if constexpr (requires { program->refresh(eager); })
            if (seed == 3 && refreshed) program->refresh(eager);
          program->fill(10 * seed + unsigned(comm.rank()));
          ready[me] = queue.record();
          meet();
          if (me == 0) {
            for (auto const& e : ready) root.queue.wait(*e);
            captured->launch(root.handle);
            ready[0] = root.queue.record();
          }
          meet();
          queue.wait(*ready[0]);
          auto const got = program->results();
          std::lock_guard const lock(checking);
          CHECK(captured->end() == cudaSuccess);
          CHECK(got == expected[seed]);
        }
        meet();
        program->forget();
        std::lock_guard const lock(checking);
        CHECK(memory.blocks_out() == blocks);
      },
      conformance::patient(), [&](int rank) { return streams(rank); });
}

/// Tensors of one rank's attention step: heads of queries, of keys, and their dim.
template <class T>
struct step_tensors {
  using tensor = support::pool_tensor<T, 3, counted_pool>;
  tensor q, k, v, out, dout, dq, dk, dv;

  step_tensors(counted_pool& m, index_t rows, index_t keys, std::array<index_t, 3> const& s)
      : q(m, {rows, s[0], s[2]}), k(m, {keys, s[1], s[2]}), v(m, {keys, s[1], s[2]}), out(m, {rows, s[0], s[2]}),
        dout(m, {rows, s[0], s[2]}), dq(m, {rows, s[0], s[2]}), dk(m, {keys, s[1], s[2]}), dv(m, {keys, s[1], s[2]}) {}
  void fill(unsigned seed) {
    std::mt19937_64 g(seed);
    std::normal_distribution<double> normal;
    for (tensor* x : {&q, &k, &v, &dout}) {
      std::vector<T> values(std::size_t((*x)->elements()));
      for (T& y : values) y = T(normal(g));
      x->upload(values);
    }
    for (tensor* x : {&out, &dq, &dk, &dv}) x->upload(std::vector<T>(std::size_t((*x)->elements()), T(77)));
  }
  std::vector<std::vector<double>> results() const {
    std::vector<std::vector<double>> list;
    for (tensor const* x : {&out, &dq, &dk, &dv}) {
      list.emplace_back();
      for (T y : x->download()) list.back().push_back(double(sp::to_acc(y)));
    }
    return list;
  }
};

/// Forward and backward of an attention object. Random numbers come from a key by value where the queue is given the work, and from a
/// key with a counter in device memory where it is captured: the value is the sum of seed and counter, which is another one at each launch.
template <class T, class Object>
class attention_program {
public:
  bool captured = false;

  /// Self attention on `b`; `room` as in context::room, and `other` to be put in its place.
  template <class Comm>
  attention_program(Comm const& comm, counted_pool& memory, Object object, std::array<index_t, 3> shape, sp::batch b,
                    std::optional<sp::batch> keys = {}, std::optional<sp::batch> other = {}, sp::table_room room = {})
      : queue_(comm.queue()), object_(std::move(object)), shape_(shape), b_(std::move(b)), other_(std::move(other)),
        x_(memory, b_.tokens(), (keys ? *keys : b_).tokens(), shape), counter_(memory, {1}) {
    sp::context ctx(queue_, memory, memory);
    ctx.room = room;
    prepared_.emplace(keys ? object_.prepare(b_, *keys, ctx) : object_.prepare(b_, ctx));
    if (other_) of_other_.emplace(object_.prepare(*other_, ctx));
  }
  void fill(unsigned seed) {
    counted_ = std::uint64_t(seed) / 10;
    counter_.upload({counted_});
    x_.fill(seed);
  }
  template <class Context>
  void step(Context const& c) {
    run(*prepared_, c);
  }
  template <class Context>
  void step_of_other(Context const& c) {
    run(*of_other_, c);
  }
  template <class Context>
  void refresh(Context const& c) {
    object_.refresh(*prepared_, *other_, c);
  }
  std::vector<std::vector<double>> results() const { return x_.results(); }
  index_t scratch() const {
    return object_.template scratch_bytes<T>(*prepared_, {shape_[0], shape_[1], shape_[2], shape_[2]}, queue_);
  }
  void forget() {}

private:
  template <class Prepared, class Context>
  void run(Prepared const& p, Context c) {
    c.random = captured ? sp::random_key{40, 3, counter_->data} : sp::random_key{40 + counted_, 3};
    auto saved = object_.forward(p, c, *x_.q, *x_.k, *x_.v, *x_.out);
    object_.backward(p, c, std::move(saved), *x_.q, *x_.k, *x_.v, *x_.out, *x_.dout, *x_.dq, *x_.dk, *x_.dv);
  }

  cuda_queue queue_;
  Object object_;
  std::array<index_t, 3> shape_;
  sp::batch b_;
  std::optional<sp::batch> other_;
  step_tensors<T> x_;
  support::pool_tensor<std::uint64_t, 1, counted_pool> counter_;
  std::uint64_t counted_ = 0;
  std::optional<typename Object::prepared> prepared_, of_other_;
};

} // namespace cuda_tests
