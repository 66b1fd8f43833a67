// What sits in an attention slot, without its type: the calls of an attention object as virtual functions, one a call.
// A call costs the virtual call, and forward a box that is used again, beyond what the object itself does.
#pragma once

#include <sp/attention/call/attention_object.hpp>
#include <sp/multimodal/seat.hpp>
#include <sp/multimodal/slot_saved.hpp>

namespace sp {

namespace detail {

/// A batch, or what was prepared for it.
struct slot_step {
  batch const* of = nullptr;
  slot_prepared const* prepared = nullptr;
};

template <class T, class Queue>
class seated : public seat_base<seated<T, Queue>> {
public:
  using memory = typename Queue::memory_type;
  using context_type = context<Queue>;
  using forward_type = forward_operands<T, memory>;
  using backward_type = backward_operands<T, memory>;

  /// mask: null for that of the object. context: null to prepare without one.
  virtual slot_prepared prepare(batch const& q, batch const& k, sp::mask const* mask, context_type const* context) const = 0;
  virtual void refresh(slot_prepared& p, batch const& q, batch const& k, sp::mask const* mask, context_type const&) const = 0;
  virtual slot_saved<T> forward(slot_step, context_type const&, forward_type const&) const = 0;
  virtual void infer(slot_step, context_type const&, forward_type const&) const = 0;
  virtual void backward(slot_step, context_type const&, slot_saved<T>&, backward_type const&) const = 0;
  virtual index_t scratch_bytes(slot_step, attention_shape const&, Queue const&) const = 0;
  virtual index_t saved_bytes(slot_step, attention_shape const&) const = 0;

protected:
  using seat_base<seated>::seat_base;
  std::uint64_t const number_ = new_serial();
};

template <class T, class Queue, class Object>
class seat_of final : public seated<T, Queue> {
  using base = seated<T, Queue>;
  using prepared = typename Object::prepared;
  using saved = typename Object::template saved<T>;

public:
  using typename base::backward_type, typename base::context_type, typename base::forward_type;

  seat_of(Object object, seating s) : base(s), object_(std::move(object)), boxes_(new saved_boxes<saved>) {}
  ~seat_of() override { boxes_->leave(); }

  slot_prepared prepare(batch const& q, batch const& k, sp::mask const* mask, context_type const* context) const override {
    auto made = [&](auto const&... in) {
      return slot_prepared(new prepared(mask ? object_.prepare(q, k, *mask, in...) : object_.prepare(q, k, in...)));
    };
    return context ? made(*context) : made();
  }
  void refresh(slot_prepared& p, batch const& q, batch const& k, sp::mask const* mask, context_type const& c) const override {
    if (mask)
      object_.refresh(p.as<prepared>(), q, k, *mask, c);
    else
      object_.refresh(p.as<prepared>(), q, k, c);
  }
  slot_saved<T> forward(slot_step s, context_type const& c, forward_type const& o) const override {
    return in(s, [&](prepared const& p) {
      saved result = object_.forward(p, c, o);
      saved_box* const b = boxes_->take(this->number_);
      boxes_->value(b) = std::move(result);
      return slot_saved<T>(b);
    });
  }
  void infer(slot_step s, context_type const& c, forward_type const& o) const override {
    in(s, [&](prepared const& p) { object_.infer(p, c, o); });
  }
  void backward(slot_step s, context_type const& c, slot_saved<T>& x, backward_type const& o) const override {
    saved& mine = boxes_->value(x.of(this->number_));
    in(s, [&](prepared const& p) { object_.backward(p, c, std::move(mine), o); });
    x.consume(); // only now: a call that failed before it sent anything can be made again
  }
  index_t scratch_bytes(slot_step s, attention_shape const& shape, Queue const& queue) const override {
    return in(s, [&](prepared const& p) { return object_.template scratch_bytes<T>(p, shape, queue); });
  }
  index_t saved_bytes(slot_step s, attention_shape const& shape) const override {
    return in(s, [&](prepared const& p) { return object_.template saved_bytes<T>(p, shape); });
  }
  base* clone() const override { return new seat_of(object_, this->how); }

private:
  template <class F>
  auto in(slot_step s, F const& f) const {
    if (s.prepared) return f(s.prepared->as<prepared>());
    auto const p = object_.prepared_for(*s.of);
    return f(*p);
  }

  Object object_;
  saved_boxes<saved>* boxes_;
};

} // namespace detail
} // namespace sp
