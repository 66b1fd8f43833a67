// The calls that prepare a batch, and that put another in its place: the overloads of prepare and refresh, written once.
// Queries and keys of one batch or of two, the mask of the object or one of the step, in a context or without.
#pragma once

#include <sp/core/context.hpp>
#include <sp/geometry/mask.hpp>
#include <sp/layout/batch.hpp>

namespace sp::detail {

/// Object: attention_object<Derived>.
template <class Object>
class prepare_calls {
public:
  /// Self attention over a batch, under the object's mask or one of the step's own (prefix lengths, image spans).
  [[nodiscard]] auto prepare(batch const& b) const { return prepare(b, b, object().self().mask()); }
  [[nodiscard]] auto prepare(batch const& b, sp::mask const& mask) const { return prepare(b, b, mask); }
  /// Queries of one batch, keys of another: cross attention, decode. Documents pair up by index.
  [[nodiscard]] auto prepare(batch const& q, batch const& k) const { return prepare(q, k, object().self().mask()); }
  [[nodiscard]] auto prepare(batch const& q, batch const& k, sp::mask const& mask) const {
    return object().prepare_in(no_context{}, q, k, mask);
  }
  /// The same in a context: what work of its queue reads is uploaded into memory of context.kept, which the result holds. What such a
  /// queue does is the same without, at a higher cost; a kernel that keeps tables needs the context.
  template <class Queue>
  [[nodiscard]] auto prepare(batch const& b, context<Queue> const& ctx) const {
    return object().prepare_in(ctx, b, b, object().self().mask());
  }
  template <class Queue>
  [[nodiscard]] auto prepare(batch const& b, sp::mask const& mask, context<Queue> const& ctx) const {
    return object().prepare_in(ctx, b, b, mask);
  }
  template <class Queue>
  [[nodiscard]] auto prepare(batch const& q, batch const& k, context<Queue> const& ctx) const {
    return object().prepare_in(ctx, q, k, object().self().mask());
  }
  template <class Queue>
  [[nodiscard]] auto prepare(batch const& q, batch const& k, sp::mask const& mask, context<Queue> const& ctx) const {
    return object().prepare_in(ctx, q, k, mask);
  }

  /// Makes `p` what prepare() would return for another batch, in place: tables are rewritten behind all work that the queue was given,
  /// and keep their addresses, so that a graph that was captured computes on the new batch. workspace_too_small if they have too little
  /// room (context.room when they were prepared). After an error `p` serves no call, but may be refreshed. From check level 2 on collective,
  /// as prepare() is. A `saved` of the batch before is refused afterwards.
  template <class Prepared, class Queue>
  void refresh(Prepared& p, batch const& b, context<Queue> const& ctx) const {
    object().prepare_into(".refresh", p, ctx, b, b, object().self().mask());
  }
  template <class Prepared, class Queue>
  void refresh(Prepared& p, batch const& b, sp::mask const& mask, context<Queue> const& ctx) const {
    object().prepare_into(".refresh", p, ctx, b, b, mask);
  }
  template <class Prepared, class Queue>
  void refresh(Prepared& p, batch const& q, batch const& k, context<Queue> const& ctx) const {
    object().prepare_into(".refresh", p, ctx, q, k, object().self().mask());
  }
  template <class Prepared, class Queue>
  void refresh(Prepared& p, batch const& q, batch const& k, sp::mask const& mask, context<Queue> const& ctx) const {
    object().prepare_into(".refresh", p, ctx, q, k, mask);
  }

private:
  prepare_calls() = default;
  friend Object;
  Object const& object() const { return static_cast<Object const&>(*this); }
};

} // namespace sp::detail
