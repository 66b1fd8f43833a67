// The plan of a causal convolution for one batch, and what its forward call leaves for its backward call.
// Both say what they were made for; what belongs to another group, width, batch or object is refused with both numbers.
#pragma once

#include <sp/core/group_place.hpp>
#include <sp/core/table.hpp>
#include <sp/layout/batch.hpp>
#include <sp/layout/digests.hpp>
#include <sp/layout/landing_table.hpp>
#include <sp/linear/conv1d_rows.hpp>

namespace sp::detail {

/// Who needs which rows of whom, for one batch; made once per step. Its tables are in memory of context.kept where that is not the host's.
template <class M>
struct conv1d_plan {
  conv1d_rows rows{};               ///< its lists are in the tables
  route from_readers{}, from_all{}; ///< the ways back
  landing_table<M> sums_of_readers{}, sums_of_all{};
  table<index_t, M> sources{}, users{}, lengths{};
  std::uint64_t documents = 0, sharding = 0, tokens = 0; ///< digests, from level 2 on
  std::uint64_t serial = 0;                              ///< of the batch
  group_place place{};                                   ///< for which it was made
  std::uint64_t object = 0;                              ///< which object made it
  mutable std::uint64_t calls = 0;                       ///< that ranks have compared, from level 2 on: alike on all

  /// Rows of others that this rank reads.
  [[nodiscard]] index_t halo_rows() const noexcept { return rows.halo; }
  /// Rows that this rank sends to others, each counted for every one of them: to their halos, and of final states where these are asked
  /// for. Gradients of them come back, in the type of sums.
  [[nodiscard]] index_t rows_sent(bool final_state = false) const noexcept {
    return rows.rows_sent + (final_state ? (place.size - 1) * rows.to_all.sends().rows(place.rank) : 0);
  }

  template <class Queue>
  void assign(context<Queue> const& ctx, sp::batch const& b, group_place here, index_t width, bool digests) {
    if (group_place const of_batch{b.part(), b.parts()}; of_batch != here)
      fail({errc::invalid_shape, "the batch was made for " + of_batch.text() + ", this is " + here.text() + " of the group",
            "Make the batch over the ranks of the same group"});
    rows = conv1d_rows::of(b.layout(), b.part(), width);
    from_readers = rows.to_readers.transposed(), from_all = rows.to_all.transposed();
    sums_of_readers.assign(ctx, from_readers), sums_of_all.assign(ctx, from_all);
    sources.assign(ctx, std::exchange(rows.sources, {}));
    users.assign(ctx, std::exchange(rows.users, {}));
    lengths.assign(ctx, std::exchange(rows.lengths, {}));
    serial = b.serial(), place = here;
    if (digests) documents = digest_of(b.source()), sharding = digest_of(b.layout()), tokens = b.token_digest();
  }
  [[nodiscard]] bool fits(group_place here, index_t width) const { return place == here && rows.width == width; }
  void require_fitting(group_place here, index_t width, int checks) const {
    bool const compared = checks < 2 || sharding != 0;
    if (fits(here, width) && compared) return;
    std::string const whose =
        place.nowhere() ? "was not made by prepare()"
        : place != here ? "was made by " + place.text() + " of another group, this is " + here.text()
        : !compared     ? "was made at a check level below 2, this object is at " + std::to_string(checks)
                        : "is for a width of " + std::to_string(rows.width) + ", this object has " + std::to_string(width);
    fail({errc::bad_state, "this plan of a convolution " + whose,
          "Pass what prepare of an object of the same group, width and checks made for the batch"});
  }
};

/// What backward needs of a forward call: its halo. Movable; one backward call consumes it.
template <class T, class M>
class conv1d_saved {
public:
  using element_type = T;
  /// What the forward call was.
  struct origin {
    std::uint64_t batch = 0, object = 0;
    index_t channels = 0;
    bool initial = false, bias = false, final = false;
  };

  conv1d_saved() = default; ///< of no call
  /// Room for the halo, in memory of context.kept.
  conv1d_saved(basic_allocator<M>& kept, index_t rows, origin const& from)
      : halo(kept, {rows, from.channels}), from_(from), live_(true) {}
  conv1d_saved(conv1d_saved&& o) noexcept
      : halo(std::move(o.halo)), call(o.call), from_(o.from_), live_(std::exchange(o.live_, false)) {}
  conv1d_saved& operator=(conv1d_saved&& o) noexcept {
    halo = std::move(o.halo), call = o.call, from_ = o.from_, live_ = std::exchange(o.live_, false);
    return *this;
  }

  /// bad_state unless the backward call `now` is that of the forward call.
  void require(origin const& now) const {
    auto refuse = [](std::string problem) {
      fail({errc::bad_state, std::move(problem),
            "Pass to backward what forward of the same object and batch returned, and the operands of that call"});
    };
    auto require_same = [&](char const* what, bool then, bool now_given) {
      if (then != now_given)
        refuse("forward was given " + std::string(then ? "" : "no ") + what + ", backward " + (now_given ? "one" : "none"));
    };
    if (!live_) refuse("this saved was used already, or moved away");
    if (from_.object != now.object) refuse("saved belongs to another object");
    if (from_.batch != now.batch)
      refuse("saved belongs to another batch: to number " + std::to_string(from_.batch) + ", this call is on number " +
             std::to_string(now.batch));
    if (from_.channels != now.channels)
      refuse("forward was given " + std::to_string(from_.channels) + " channels, backward " + std::to_string(now.channels));
    require_same("initial state", from_.initial, now.initial);
    require_same("bias", from_.bias, now.bias);
    if (now.final) require_same("final state", from_.final, now.final);
  }

  owned<T, 2, M> halo;    // (halo rows, channels)
  std::uint64_t call = 0; ///< number of the forward call among those on its plan, from level 2 on

private:
  origin from_{};
  bool live_ = false;
};

} // namespace sp::detail
