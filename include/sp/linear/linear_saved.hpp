// What a plan of linear attention and what a forward call leaves for its backward call say about where they belong.
// What belongs to another group, strategy, batch or object is refused with both names.
#pragma once

#include <string>
#include <utility>

#include <sp/core/group_place.hpp>
#include <sp/layout/digests.hpp>
#include <sp/linear/operands.hpp>

namespace sp::detail {

/// Bytes that all ranks together send in either pass.
struct linear_bytes {
  index_t forward = 0, backward = 0;
  [[nodiscard]] index_t all() const noexcept { return forward + backward; }
};

/// Gates of a kernel; -1 for what is no kernel of linear attention.
template <class Kernel>
inline constexpr int gates_in = -1;
template <class Kernel>
  requires requires {
    typename Kernel::memory_type;
    { Kernel::form } -> std::convertible_to<map_form>;
    { Kernel::gates } -> std::convertible_to<int>;
  }
inline constexpr int gates_in<Kernel> = int(Kernel::gates);

/// The memories of a communicator and a kernel agree; those of what is neither have a sentence of their own.
template <class Comm, class Kernel>
inline constexpr bool one_memory = true;
template <class Comm, class Kernel>
  requires requires {
    typename Comm::memory_type;
    typename Kernel::memory_type;
  }
inline constexpr bool one_memory<Comm, Kernel> = std::is_same_v<typename Comm::memory_type, typename Kernel::memory_type>;

/// For what a plan was made.
struct linear_prepared {
  linear_needs needs{};
  std::uint64_t documents = 0, sharding = 0, tokens = 0; ///< digests, from level 2 on
  std::uint64_t serial = 0, object = 0;                  ///< of the batch; which object made it
  group_place place{};
  int strategy = 0;
  mutable std::uint64_t calls = 0; ///< that ranks have compared, from level 2 on: alike on all

  void describe(batch const& b, group_place here, int how, bool digests) {
    if (group_place const of_batch{b.part(), b.parts()}; of_batch != here)
      fail({errc::invalid_shape, "the batch was made for " + of_batch.text() + ", this is " + here.text() + " of the group",
            "Make the batch over the ranks of the same group"});
    needs = {b.tokens(), index_t(b.docs().size())};
    serial = b.serial(), place = here, strategy = how;
    if (digests) documents = digest_of(b.source()), sharding = digest_of(b.layout()), tokens = b.token_digest();
  }
  [[nodiscard]] bool fits(group_place here, int how) const { return place == here && strategy == how; }
  void require_fitting(group_place here, int how, int checks) const {
    bool const compared = checks < 2 || sharding != 0;
    if (fits(here, how) && compared) return;
    std::string const whose = place.nowhere() ? "was not made by prepare()"
                              : place != here ? "was made by " + place.text() + " of another group, this is " + here.text()
                              : !compared     ? "was made at a check level below 2, this object is at " + std::to_string(checks)
                                              : std::string("is for another strategy");
    fail({errc::bad_state, "this plan of linear attention " + whose,
          "Pass what prepare of an object of the same group, strategy and checks made for the batch"});
  }
};

/// What a forward call was. Movable; what was moved from is used.
struct linear_saved {
  std::uint64_t batch = 0, object = 0;
  linear_shape shape{};
  int strategy = 0; ///< the linear_strategy that was taken: backward takes the same
  bool initial = false, final = false;
  std::uint64_t call = 0; ///< its number among those on its plan, from level 2 on

  linear_saved() = default;
  linear_saved(std::uint64_t of_batch, std::uint64_t of_object, linear_shape const& s, int how, bool with_initial,
               bool with_final)
      : batch(of_batch), object(of_object), shape(s), strategy(how), initial(with_initial), final(with_final), live_{true} {}

  /// bad_state unless the backward call `now` is that of the forward call.
  void require(linear_saved const& now) const {
    auto refuse = [](std::string problem) {
      fail({errc::bad_state, std::move(problem),
            "Pass to backward what forward of the same object and batch returned, and the operands of that call"});
    };
    auto heads = [](linear_shape const& s) {
      return std::to_string(s.k_heads) + " key heads of " + std::to_string(s.key_dim) + " and " + std::to_string(s.v_heads) +
             " value heads of " + std::to_string(s.value_dim);
    };
    if (!live_.value) refuse("this saved was used already, or moved away");
    if (object != now.object) refuse("saved belongs to another object");
    if (batch != now.batch)
      refuse("saved belongs to another batch: to number " + std::to_string(batch) + ", this call is on number " +
             std::to_string(now.batch));
    if (shape != now.shape) refuse("forward was given " + heads(shape) + ", backward " + heads(now.shape));
    if (initial != now.initial)
      refuse(std::string("forward was given ") + (initial ? "an" : "no") + " initial state, backward " +
             (initial ? "none" : "one"));
    if (now.final && !final) refuse("forward was asked for no final state, backward is given the gradient of one");
  }

private:
  /// True until it is moved from.
  struct until_moved {
    bool value = false;
    explicit until_moved(bool v = false) : value(v) {}
    until_moved(until_moved&& o) noexcept : value(std::exchange(o.value, false)) {}
    until_moved& operator=(until_moved&& o) noexcept {
      value = std::exchange(o.value, false);
      return *this;
    }
  };
  until_moved live_{};
};

} // namespace sp::detail
