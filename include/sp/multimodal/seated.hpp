// What sits in an attention slot, without its type: beside the calls of every such seat, masks of a step and another batch in place.
// One geometry may be of queries of one batch and keys of another.
#pragma once

#include <sp/attention/call/attention_object.hpp>
#include <sp/multimodal/seated_calls.hpp>

namespace sp {

namespace detail {

template <class T, class Queue>
using attention_signature = slot_signature<T, Queue, forward_operands<T, typename Queue::memory_type>,
                                           backward_operands<T, typename Queue::memory_type>, attention_shape>;

template <class T, class Queue>
class seated : public seated_calls<seated<T, Queue>, attention_signature<T, Queue>> {
  using base = seated_calls<seated, attention_signature<T, Queue>>;

public:
  using typename base::context_type;

  /// mask: null for that of the object. context: null to prepare without one.
  virtual slot_prepared prepare(batch const& q, batch const& k, sp::mask const* mask, context_type const* context) const = 0;
  virtual void refresh(slot_prepared& p, batch const& q, batch const& k, sp::mask const* mask, context_type const&) const = 0;

protected:
  using base::base;
};

template <class T, class Queue, class Object>
class seat_of final : public object_in_seat<seated<T, Queue>, Object> {
  using base = object_in_seat<seated<T, Queue>, Object>;
  using typename base::prepared;

public:
  using typename base::context_type;

  seat_of(Object object, seating s) : base(std::move(object), s) {}

  slot_prepared prepare(batch const& q, batch const& k, sp::mask const* mask, context_type const* context) const override {
    auto made = [&](auto const&... in) {
      return slot_prepared(new prepared(mask ? this->object_.prepare(q, k, *mask, in...) : this->object_.prepare(q, k, in...)));
    };
    return context ? made(*context) : made();
  }
  void refresh(slot_prepared& p, batch const& q, batch const& k, sp::mask const* mask, context_type const& c) const override {
    if (mask)
      this->object_.refresh(p.as<prepared>(), q, k, *mask, c);
    else
      this->object_.refresh(p.as<prepared>(), q, k, c);
  }
  seated<T, Queue>* clone() const override { return new seat_of(this->object_, this->how); }
};

} // namespace detail
} // namespace sp
