// Losses over a sharded sequence: the same {loss, num_tokens} on every rank, and a gradient scaled exactly once.
// How losses are reduced, when N is divided out and what happens to parameter gradients are three separate, named choices.
#pragma once

#include <sp/collective/reductions.hpp>
#include <sp/loss/gather_tokens.hpp>
#include <sp/loss/loss_result.hpp>
#include <sp/loss/loss_rows.hpp>

namespace sp {

/// The gradient contract: parameter gradients will be summed over the ranks of the loss's group (data and sequence axes together).
struct summed {
  constexpr double factor() const { return 1; }
};

/// The gradient contract: parameter gradients will be averaged over `ranks` (all axes over which they are averaged).
struct averaged {
  int ranks;
  constexpr double factor() const { return double(ranks); }
};

/// How per-token losses become one number.
enum class reduction { sum, mean };
/// When a mean divides by the number of tokens: in this call, or by the caller at the optimizer step (loss_sum below).
enum class divide { now, later };
namespace detail {
inline constexpr char const *reduction_words[] = {"sum", "mean"}, *divide_words[] = {"now", "later"};
} // namespace detail

/// What a gather_loss is made with. One value for all ranks.
struct loss_options {
  reduction reduce = reduction::mean;
  sp::divide divide = divide::now;
  index_t ignore_index = -100; ///< rows with this label count neither in the loss nor in num_tokens; a value of the labels' type
  int checks = 1; ///< 0 none, 1 shapes, 2 also: ranks compare options and types first, 3 also: NaN and infinities are refused
};

/// Contract: sp::summed or sp::averaged. The group is every rank that shares the loss: sequence and data axes (mesh.along(...)).
template <class Comm, class Contract>
class gather_loss {
  static_assert(communicator<Comm>,
                "sp::gather_loss: the first argument must be a communicator: copyable, with memory_type, rank(), size() and "
                "exchange(traffic); sp::threads, sp::solo or a mesh group is one.");
  static_assert(
      requires(Contract c) {
        { c.factor() } -> std::convertible_to<double>;
      },
      "sp::gather_loss: say what will happen to parameter gradients: sp::summed{} or sp::averaged{number of ranks}.");

public:
  gather_loss(Comm group, Contract contract, loss_options options = {})
      : comm_(std::move(group)), contract_(contract), options_(options) {
    if (!(contract_.factor() > 0))
      fail({errc::invalid_shape, "the gradient contract has the factor " + std::to_string(contract_.factor()),
            "Give sp::averaged the number of ranks over which parameter gradients will be averaged", "gather_loss", comm_.rank(),
            comm_.size()});
    detail::check_level(options_.checks, "gather_loss", comm_.rank(), comm_.size());
  }

  Comm const& group() const noexcept { return comm_; }

  /// losses (tokens), labels (tokens) of this rank -> the loss of the whole group, in memory of the queue that context.kept gives: it waits
  /// for no work. sp::read(queue, result) brings it to the host. Losses of ignored rows are not read.
  template <class Queue, class T, class Label>
  [[nodiscard]] queued_loss<typename Queue::memory_type> forward(context<Queue> const& ctx, detail::view_on<Queue, T, 1> losses,
                                                                 detail::view_on<Queue, Label, 1> labels) const {
    return sum_up(ctx, losses, labels, detail::equal_weights{});
  }
  /// With weights (tokens), of any element type: the loss is the sum of weight x loss, a mean divides it by the sum of weights, over the
  /// rows of all ranks whose label counts. A row of weight 0 is as one with an ignored label. No gradient goes to the weights.
  template <class Queue, class T, class Label, class Weight>
  [[nodiscard]] queued_loss<typename Queue::memory_type> forward(context<Queue> const& ctx, detail::view_on<Queue, T, 1> losses,
                                                                 detail::view_on<Queue, Label, 1> labels,
                                                                 detail::view_on<Queue, Weight, 1> weights) const {
    return sum_up(ctx, losses, labels, weighing(weights));
  }

  /// The same for the host.
  template <class T, class Label>
  [[nodiscard]] loss_result forward(view<T, 1> losses, view<Label, 1> labels, allocator& scratch) const {
    return sp::read(inline_queue(), forward(context(scratch, scratch), losses, labels));
  }
  template <class T, class Label, class Weight>
  [[nodiscard]] loss_result forward(view<T, 1> losses, view<Label, 1> labels, view<Weight, 1> weights, allocator& scratch) const {
    return sp::read(inline_queue(), forward(context(scratch, scratch), losses, labels, weights));
  }
  template <class T, class Label>
  [[nodiscard]] loss_result forward(view<T, 1> losses, view<Label, 1> labels) const {
    return in_small_memory([&](allocator& scratch) { return forward(losses, labels, scratch); });
  }
  template <class T, class Label, class Weight>
  [[nodiscard]] loss_result forward(view<T, 1> losses, view<Label, 1> labels, view<Weight, 1> weights) const {
    return in_small_memory([&](allocator& scratch) { return forward(losses, labels, weights, scratch); });
  }

  /// dlosses (tokens) = upstream x contract x (1 / N now), 0 for ignored rows. Local: the loss is the same function of every rank's
  /// rows; rows may be given in parts. bad_state for a result of another object, and if not as many labels count as in forward: where
  /// they do on every rank, N is that of these labels. On a queue of the host labels are counted at every check level but 0; on another
  /// that would wait for it.
  template <class Queue, class T, class Label>
  void backward(context<Queue> const& ctx, loss_result const& r, view<Label, 1, typename Queue::memory_type> labels,
                view<T, 1, typename Queue::memory_type> dlosses, double upstream = 1) const {
    known(ctx, r, labels, detail::equal_weights{}, dlosses, upstream);
  }
  /// The same with the weights that forward was given, each times the gradient of its row; N is their sum.
  template <class Queue, class T, class Label, class Weight>
  void backward(context<Queue> const& ctx, loss_result const& r, view<Label, 1, typename Queue::memory_type> labels,
                view<Weight, 1, typename Queue::memory_type> weights, view<T, 1, typename Queue::memory_type> dlosses,
                double upstream = 1) const {
    known(ctx, r, labels, weighing(weights), dlosses, upstream);
  }
  /// The same with a loss that the host has not read: it waits for no work below check level 3.
  template <class Queue, class T, class Label>
  void backward(context<Queue> const& ctx, queued_loss<typename Queue::memory_type> const& r,
                view<Label, 1, typename Queue::memory_type> labels, view<T, 1, typename Queue::memory_type> dlosses,
                double upstream = 1) const {
    queued(ctx, r, labels, detail::equal_weights{}, dlosses, upstream);
  }
  template <class Queue, class T, class Label, class Weight>
  void backward(context<Queue> const& ctx, queued_loss<typename Queue::memory_type> const& r,
                view<Label, 1, typename Queue::memory_type> labels, view<Weight, 1, typename Queue::memory_type> weights,
                view<T, 1, typename Queue::memory_type> dlosses, double upstream = 1) const {
    queued(ctx, r, labels, weighing(weights), dlosses, upstream);
  }
  template <class T, class Label>
  void backward(loss_result const& r, view<Label, 1> labels, view<T, 1> dlosses, double upstream = 1) const {
    workspace none(nullptr, 0); // it takes no memory on the caller's thread
    backward(context(none, none), r, labels, dlosses, upstream);
  }
  template <class T, class Label, class Weight>
  void backward(loss_result const& r, view<Label, 1> labels, view<Weight, 1> weights, view<T, 1> dlosses,
                double upstream = 1) const {
    workspace none(nullptr, 0);
    backward(context(none, none), r, labels, weights, dlosses, upstream);
  }

private:
  template <class Weight, class M>
  static auto weighing(view<Weight, 1, M> const& weights) {
    static_assert(element<std::remove_const_t<Weight>>,
                  "sp::gather_loss: loss weights are float, double, bf16 or fp16, and stand behind the labels.");
    return detail::given_weights<std::remove_const_t<Weight>, M>{weights};
  }
  template <class Queue, class T, class Label, class M, class Weights>
  queued_loss<M> sum_up(context<Queue> const& ctx, view<T, 1, M> const& losses, view<Label, 1, M> const& labels,
                        Weights const& weights) const {
    auto const range = detail::named_work(ctx.queue, "gather_loss", ".forward");
    require_signed<std::remove_const_t<Label>>();
    check_forward<std::remove_const_t<T>, std::remove_const_t<Label>>(ctx, losses, labels, weights);
    bool const divided = options_.reduce == reduction::mean && options_.divide == divide::now;
    queued_loss<M> r(*ctx.kept, divided, Weights::given, {id_, detail::group_place::in(comm_), losses.extent(0)});
    auto const numbers = r.numbers_.tensor; // counts are exact in double up to 2^53
    ctx.queue.sums(1, losses.extent(0), detail::loss_term<T, Label, M, Weights>{losses, labels, options_.ignore_index, weights},
                   detail::store_loss<M>{numbers});
    sp::all_reduce(comm_, Weights::given ? numbers.rows(2, 3) : numbers.rows(3, 2), ctx, "gather_loss").wait();
    detail::scaled_loss<M> const scaled{numbers, contract_.factor(), divided, Weights::given};
    ctx.queue.for_each(std::array<index_t, 1>{1}, scaled);
    return r;
  }
  template <class Forward>
  loss_result in_small_memory(Forward const& forward) const {
    alignas(allocator::alignment) std::byte memory[8192]; // enough for a few dozen ranks, and no allocation
    workspace small(memory, sizeof memory);
    index_t const compared = options_.checks > 1 ? agreement_scratch(comm_.size()) : 0; // before the sum, given back
    if (max(compared, all_reduce_scratch<double>(3, comm_.size())) < index_t(sizeof memory)) return forward(small);
    pool large;
    return forward(large);
  }

  template <class Queue, class T, class Label, class M, class Weights>
  void known(context<Queue> const& ctx, loss_result const& r, view<Label, 1, M> const& labels, Weights const& weights,
             view<T, 1, M> const& dlosses, double upstream) const {
    check_backward(r.from, r.weighted, labels, weights, dlosses);
    require_finite_scale(upstream, r.scale);
    auto const rows = gradient_rows(dlosses, labels, detail::known_gradient{upstream * r.scale}, weights);
    if (!detail::runs_on_host<Queue> || options_.checks == 0) return ctx.queue.for_each(dlosses.extents, rows);
    require_same_count(r.from, labels.extent(0), detail::sum_now(ctx.queue, *ctx.scratch, dlosses.extent(0), rows));
  }
  template <class Queue, class T, class Label, class M, class Weights>
  void queued(context<Queue> const& ctx, queued_loss<M> const& r, view<Label, 1, M> const& labels, Weights const& weights,
              view<T, 1, M> const& dlosses, double upstream) const {
    if constexpr (detail::runs_on_host<Queue>) {
      known(ctx, sp::read(ctx.queue, r), labels, weights, dlosses, upstream);
    } else {
      auto const range = detail::named_work(ctx.queue, "gather_loss", ".backward");
      r.require();
      check_backward(r.from_, r.weighted_, labels, weights, dlosses);
      if (options_.checks > 2) {
        detail::require_not_captured(ctx.queue);
        require_finite_scale(upstream, sp::read(ctx.queue, r).scale);
      }
      detail::queued_gradient<M> const gradient{r.values().rows(2, 1), upstream};
      ctx.queue.for_each(dlosses.extents, gradient_rows(dlosses, labels, gradient, weights));
    }
  }

  template <class Label>
  static constexpr void require_signed() {
    static_assert(
        std::is_integral_v<Label> && std::is_signed_v<Label>,
        "sp::gather_loss: labels must be signed integers: ignore_index is negative (-100), and a label of an unsigned type "
        "can never be it.");
  }

  template <class T, class Label, class M, class Weights>
  void check_backward(detail::loss_origin const& from, bool weighted, view<Label, 1, M> const& labels, Weights const& weights,
                      view<T, 1, M> const& dlosses) const {
    require_signed<std::remove_const_t<Label>>();
    if (options_.checks == 0) return;
    check(dlosses, labels, weights);
    require_made_here(from, labels.extent(0));
    if (weighted == Weights::given) [[likely]]
      return;
    auto with = [](bool given) { return given ? "with weights" : "without weights"; };
    fail({errc::bad_state, std::string("forward was called ") + with(weighted) + ", backward " + with(Weights::given),
          "Give backward the weights that forward was given", "gather_loss", comm_.rank(), comm_.size()});
  }
  /// Both factors are looked at too: a program compiled with -ffast-math promises that no product is NaN.
  void require_finite_scale(double upstream, double of_forward) const {
    double const scale = upstream * of_forward;
    if (options_.checks > 2 && !(detail::is_finite(upstream) && detail::is_finite(of_forward) && detail::is_finite(scale)))
      fail({errc::non_finite, "the gradient of the loss is scaled by " + std::to_string(scale), "Find where upstream comes from",
            "gather_loss", comm_.rank(), comm_.size()});
  }
  template <class T, class Label, class M, class Gradient, class Weights>
  auto gradient_rows(view<T, 1, M> const& dlosses, view<Label, 1, M> const& labels, Gradient const& gradient,
                     Weights const& weights) const {
    return detail::loss_gradient<T, Label, M, Gradient, Weights>{dlosses, labels, options_.ignore_index, gradient, weights};
  }

  void require_made_here(detail::loss_origin const& from, index_t rows) const {
    if (from.object == id_ && rows <= from.rows) [[likely]]
      return;
    auto const here = detail::group_place::in(comm_);
    fail({errc::bad_state,
          from.place.nowhere() ? std::string("this loss_result was not made by forward()")
          : from.place != here ? "this loss_result was made by " + from.place.text() + ", this one is " + here.text()
          : from.object != id_ ? std::string("this loss_result belongs to another gather_loss")
                               : "forward was given " + std::to_string(from.rows) + " rows, backward " + std::to_string(rows),
          "Pass what forward of the same object returned for these labels; copies of an object count as the same", "gather_loss",
          comm_.rank(), comm_.size()});
  }

  void require_same_count(detail::loss_origin const& from, index_t rows, index_t count) const {
    if (rows == from.rows ? count == from.counted : count <= from.counted) [[likely]]
      return;
    auto of = [](index_t n, index_t all) { return std::to_string(n) + " of " + std::to_string(all); };
    fail({errc::bad_state,
          "in forward " + of(from.counted, from.rows) + " rows counted, in backward " + of(count, rows) +
              ": these are other labels",
          "Pass the loss_result that forward returned for these labels", "gather_loss", comm_.rank(), comm_.size()});
  }

  template <class T, class Label, class Queue, class Weights>
  void check_forward(context<Queue> const& ctx, detail::view_on<Queue, T const, 1> const& losses,
                     detail::view_on<Queue, Label const, 1> const& labels, Weights const& weights) const {
    auto local = [&] {
      if (options_.checks > 0) check(losses, labels, weights);
      if (options_.checks < 3) return;
      if constexpr (Weights::given) require_finite(ctx, "weights", weights.weights, labels, weights);
      require_finite(ctx, "losses", losses, labels, weights);
    };
    options_.checks < 2 ? local() : agree_on_forward<T>(ctx, Weights::given, local);
  }

  template <class T, class Queue, class Local>
  void agree_on_forward(context<Queue> const& ctx, bool weighted, Local const& local) const {
    fingerprint f("gather_loss", ".forward", comm_.rank());
    f.number("check level", options_.checks).element<T>("element type");
    f.word("reduction", options_.reduce, detail::reduction_words).word("divide", options_.divide, detail::divide_words);
    f.number("ignore_index", options_.ignore_index).real("gradient contract", contract_.factor());
    f.number("loss weights", weighted);
    located({"gather_loss", "", comm_.rank(), comm_.size()},
            [&] { detail::check_together(ctx.queue, f, local, [&](fingerprint const& mine) { sp::agree(comm_, mine, ctx); }); });
  }

  template <class Queue, class T, class Label, class M, class Weights>
  void require_finite(context<Queue> const& ctx, char const* name, view<T const, 1, M> const& values,
                      view<Label const, 1, M> const& labels, Weights const& weights) const {
    using search = detail::illegal_loss<T, Label, M, Weights>;
    search const body{values, labels, options_.ignore_index, weights};
    index_t const i = detail::sum_now(ctx.queue, *ctx.scratch, values.extent(0), body).at;
    if (i == detail::first_place::nowhere) return;
    double const value = double(to_acc(detail::element_now(ctx.queue, &values(i))));
    fail({errc::non_finite, name + (" holds " + std::to_string(value)) + " at row " + std::to_string(i),
          "Find where it comes from; rows with ignore_index or weight 0 are not read", "gather_loss", comm_.rank(),
          comm_.size()});
  }

  template <class A, class B, class M, class Weights>
  void check(view<A, 1, M> const& losses, view<B, 1, M> const& labels, Weights const& weights) const {
    index_t const n = losses.extent(0);
    if (n != labels.extent(0))
      fail({errc::invalid_shape, std::to_string(n) + " losses, " + std::to_string(labels.extent(0)) + " labels",
            "Give one label per token; rows that do not count carry ignore_index", "gather_loss", comm_.rank(), comm_.size()});
    if constexpr (Weights::given)
      if (n != weights.weights.extent(0))
        fail({errc::invalid_shape, std::to_string(n) + " losses, " + std::to_string(weights.weights.extent(0)) + " loss weights",
              "Give one weight per token", "gather_loss", comm_.rank(), comm_.size()});
    if (index_t(std::remove_const_t<B>(options_.ignore_index)) != options_.ignore_index)
      fail({errc::invalid_shape,
            "no label of " + std::to_string(8 * sizeof(B)) + " bits can be the ignore_index " +
                std::to_string(options_.ignore_index),
            "Choose an ignore_index of the labels' type", "gather_loss", comm_.rank(), comm_.size()});
  }

  Comm comm_;
  Contract contract_;
  loss_options options_;
  std::uint64_t id_ = detail::new_serial(); ///< copies share it
};
template <class Comm, class Contract>
gather_loss(Comm, Contract, loss_options = {}) -> gather_loss<Comm, Contract>;

} // namespace sp
