// What gather_loss returns: a loss with the numbers that its gradient needs, on the host or where a queue has written them; and sums of it.
// A result says which object made it in which group, so that backward and sums over micro-batches refuse another one.
#pragma once

#include <sp/core/elementwise.hpp>
#include <sp/core/group_place.hpp>

namespace sp {

namespace detail {
/// Which forward call a loss_result comes from, as far as numbers tell: no two objects have one number, copies share theirs.
struct loss_origin {
  std::uint64_t object = 0;
  group_place place{};
  index_t rows = 0, counted = 0; ///< of this rank: labels, and those that are not ignored
};
} // namespace detail

/// The same on every rank, but for where it comes from. loss is the sum over valid tokens, divided by num_tokens for a mean that
/// divides now (0 if there are none).
struct loss_result {
  double loss = 0;
  index_t num_tokens = 0;
  double scale = 0;           ///< what backward multiplies by: contract x (1 / N where N is divided now)
  bool divided = false;       ///< whether loss and scale hold 1 / N: a mean that divides now
  detail::loss_origin from{}; ///< what backward and loss_sum compare
  bool weighted = false;      ///< whether forward was given weights
  double weight = 0;          ///< the sum of the weights of valid tokens, where it was

  /// What a mean over all tokens divides by: their number, or the sum of their weights.
  [[nodiscard]] double divisor() const { return weighted ? weight : double(num_tokens); }
};

/// Sum and count over micro-batches for divide::later: add every loss_result, multiply parameter gradients by gradient_scale() once.
struct loss_sum {
  double sum = 0;
  index_t num_tokens = 0;
  detail::group_place place{}; ///< of the results: nowhere until the first that forward made
  bool weighted = false;       ///< whether weights were given to any of them; tokens of the others weigh 1
  double weight = 0;           ///< the sum of weights, where they were
  /// bad_state for a result that is divided already (a mean of means is not the mean over all tokens), and for one of another group
  /// than those before, as far as this rank's place in it differs. A result made by hand (of a checkpoint, say) is of no group.
  void add(loss_result const& r) {
    if (r.divided)
      fail({errc::bad_state,
            "a loss divided by its " + std::to_string(r.num_tokens) + " tokens already is added to a sum over micro-batches",
            "Make the gather_loss with .divide = sp::divide::later", "loss_sum.add"});
    if (place.nowhere()) place = r.from.place;
    if (!r.from.place.nowhere() && place != r.from.place)
      fail({errc::bad_state, "a loss of " + r.from.place.text() + " is added to losses of " + place.text(),
            "Sum over micro-batches of one group", "loss_sum.add"});
    weight = divisor() + r.divisor();
    weighted = weighted || r.weighted;
    sum += r.loss;
    num_tokens += r.num_tokens;
  }
  /// As in loss_result.
  [[nodiscard]] double divisor() const { return weighted ? weight : double(num_tokens); }
  [[nodiscard]] double mean() const { return divisor() != 0 ? sum / divisor() : 0; }
  [[nodiscard]] double gradient_scale() const { return divisor() != 0 ? 1 / divisor() : 0; }
};

/// A loss that a queue computes, for later work of that queue: backward, or the caller's own. Its memory is given back when it ends.
template <class M>
class queued_loss {
public:
  /// (3): loss, num_tokens and scale, as in loss_result; num_tokens is a double.
  [[nodiscard]] view<double const, 1, M> values() const { return {numbers_.tensor.data + 3, {3}}; }

private:
  template <class, class>
  friend class gather_loss;
  template <class Q, class Memory>
  friend loss_result read(Q const& q, queued_loss<Memory> const& r);

  queued_loss(basic_allocator<M>& kept, bool divided, bool weighted, detail::loss_origin const& from)
      : numbers_(kept, {6}), divided_(divided), weighted_(weighted), from_(from) {}
  void require() const {
    if (numbers_.memory.bytes() == 0)
      fail({errc::bad_state, "this loss was moved away", "Pass what forward of a gather_loss returned", "gather_loss"});
  }

  owned<double, 1, M>
      numbers_; // (6): sum and count of this rank; the sum of weights if there are any; loss, num_tokens and scale
  bool divided_, weighted_;
  detail::loss_origin from_;
};

/// The loss for the host: waits for the queue. bad_state for one that was moved away.
template <class Q, class M>
[[nodiscard]] loss_result read(Q const& q, queued_loss<M> const& r) {
  static_assert(queue<Q> && std::is_same_v<typename Q::memory_type, M>,
                "sp::read: give the queue that the loss was computed on; its memory_type is that of the loss.");
  r.require();
  double numbers[6];
  detail::read_now(q, view(numbers, 6), r.numbers_.tensor);
  loss_result x{numbers[3], index_t(numbers[4]), numbers[5], r.divided_, r.from_, r.weighted_};
  if (r.weighted_) x.weight = numbers[2];
  x.from.counted = index_t(numbers[1]);
  return x;
}

} // namespace sp
