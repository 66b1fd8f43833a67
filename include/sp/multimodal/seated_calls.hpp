// What sits in a slot that is called with a batch, without its type: calls of an object as virtual functions, one a call.
// A call costs the virtual call, and forward a box that is used again, beyond what the object itself does.
#pragma once

#include <sp/layout/batch.hpp>
#include <sp/multimodal/seat.hpp>
#include <sp/multimodal/slot_saved.hpp>

namespace sp::detail {

/// A batch, or what was prepared for it.
struct slot_step {
  batch const* of = nullptr;
  slot_prepared const* prepared = nullptr;
};

/// What calls of a kind of object are given: operands of tensors of T by name, and the shape that bytes are asked for.
template <class T, class Queue, class Forward, class Backward, class Shape>
struct slot_signature {
  using element_type = T;
  using queue_type = Queue;
  using context_type = context<Queue>;
  using forward_type = Forward;
  using backward_type = Backward;
  using shape_type = Shape;
};

/// The calls of all such seats; Self adds how it prepares.
template <class Self, class Signature>
class seated_calls : public seat_base<Self> {
public:
  using element_type = typename Signature::element_type;
  using queue_type = typename Signature::queue_type;
  using context_type = typename Signature::context_type;
  using forward_type = typename Signature::forward_type;
  using backward_type = typename Signature::backward_type;
  using shape_type = typename Signature::shape_type;
  using saved_type = slot_saved<element_type>;

  virtual saved_type forward(slot_step, context_type const&, forward_type const&) const = 0;
  virtual void infer(slot_step, context_type const&, forward_type const&) const = 0;
  virtual void backward(slot_step, context_type const&, saved_type&, backward_type const&) const = 0;
  virtual index_t scratch_bytes(slot_step, shape_type const&, queue_type const&) const = 0;
  virtual index_t saved_bytes(slot_step, shape_type const&) const = 0;

protected:
  using seat_base<Self>::seat_base;
  std::uint64_t const number_ = new_serial();
};

/// These calls of an object in the seat Base.
template <class Base, class Object>
class object_in_seat : public Base {
public:
  using typename Base::backward_type, typename Base::context_type, typename Base::element_type, typename Base::forward_type,
      typename Base::queue_type, typename Base::saved_type, typename Base::shape_type;

  saved_type forward(slot_step s, context_type const& c, forward_type const& o) const override {
    return in(s, [&](prepared const& p) {
      saved result = object_.forward(p, c, o);
      saved_box* const b = boxes_->take(this->number_);
      boxes_->value(b) = std::move(result);
      return saved_type(b);
    });
  }
  void infer(slot_step s, context_type const& c, forward_type const& o) const override {
    in(s, [&](prepared const& p) { object_.infer(p, c, o); });
  }
  void backward(slot_step s, context_type const& c, saved_type& x, backward_type const& o) const override {
    saved& mine = boxes_->value(x.of(this->number_));
    in(s, [&](prepared const& p) { object_.backward(p, c, std::move(mine), o); });
    x.consume(); // only now: a call that failed before it sent anything can be made again
  }
  index_t scratch_bytes(slot_step s, shape_type const& shape, queue_type const& queue) const override {
    return in(s, [&](prepared const& p) { return object_.template scratch_bytes<element_type>(p, shape, queue); });
  }
  index_t saved_bytes(slot_step s, shape_type const& shape) const override {
    return in(s, [&](prepared const& p) { return object_.template saved_bytes<element_type>(p, shape); });
  }

protected:
  using prepared = typename Object::prepared;

  object_in_seat(Object object, seating s) : Base(s), object_(std::move(object)), boxes_(new saved_boxes<saved>) {}
  ~object_in_seat() override { boxes_->leave(); }

  Object object_;

private:
  using saved = typename Object::template saved<element_type>;

  template <class F>
  auto in(slot_step s, F const& f) const {
    if (s.prepared) return f(s.prepared->as<prepared>());
    auto const p = object_.prepared_for(*s.of);
    return f(*p);
  }

  saved_boxes<saved>* boxes_;
};

} // namespace sp::detail
