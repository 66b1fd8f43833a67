// The schedules of a ring, in the order of their enumerators: the one place that knows them all.
// A schedule is a struct: how, name, missing, prepare, forward, backward, take_scratch. To add one is a line in the list.
#pragma once

#include <sp/attention/ring/cast.hpp>
#include <sp/attention/ring/pass_q.hpp>
#include <sp/attention/ring/pull.hpp>
#include <sp/attention/ring/rotate.hpp>

namespace sp::detail {

template <class... Schedules>
struct schedule_list {
  static constexpr char const* names[1 + sizeof...(Schedules)] = {"automatic", Schedules::name...}; ///< of the enumerators
  static constexpr bool in_order = [i = 0]() mutable { return ((int(Schedules::how) == ++i) && ...); }();

  /// f(the struct of `how`); false where there is none.
  template <class F>
  static bool visit(schedule how, F&& f) {
    return ((how == Schedules::how && (f(Schedules{}), true)) || ...);
  }
};

using ring_schedules = schedule_list<rotate_schedule, cast_schedule, pull_schedule, pass_q_schedule>;
static_assert(ring_schedules::in_order);

/// visit() for this communicator and kernel: a schedule that they cannot run is not compiled for them.
template <class Call, class F>
void with_schedule(Call const& c, F&& f) {
  ring_schedules::visit(c.geometry.how, [&](auto s) {
    if constexpr (!decltype(s)::template missing<typename Call::communicator_type, typename Call::backend_type>) f(s);
  });
}

} // namespace sp::detail
