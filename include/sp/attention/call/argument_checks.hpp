// Argument checks of attention calls: shapes, pointers, aliasing. All local, before any communication, under a microsecond.
// Each failure names what was given, what was expected and the remedy; `located` adds rank and primitive.
#pragma once

#include <sp/attention/call/operands.hpp>
#include <sp/core/context.hpp>
#include <sp/core/footprint.hpp>

namespace sp::detail {

template <class T, int R, class M>
void require_shape(char const* name, view<T, R, M> const& v, std::array<index_t, std::size_t(R)> want) {
  view<T, R, M> expected;
  expected.extents = want;
  for (int d = 0; d < R; ++d)
    if (v.extent(d) != want[std::size_t(d)])
      fail({d == 0 && R == 3 ? errc::bad_documents : errc::invalid_shape,
            std::string(name) + " is " + shape(v) + ", expected " + shape(expected) +
                (d == 0 ? " (rows of this rank's documents)" : ""),
            d == 0
                ? "Rows must equal batch.tokens(), behind the prefix rows of a vit_attention; declare padding with shapes::padded"
                : "Make the tensors of one call agree"});
  if (!v.data && !v.empty())
    fail({errc::bad_pointer, std::string(name) + " " + shape(v) + " is null", "Pass memory for every non-empty tensor"});
  if (reinterpret_cast<std::uintptr_t>(v.data) % alignof(T) != 0)
    fail({errc::bad_pointer, std::string(name) + " is not aligned to " + std::to_string(alignof(T)) + " bytes",
          "Align tensors to their element type"});
}

template <class T, class M>
void check_forward(forward_io<T, M> const& io, index_t q_rows, index_t k_rows) {
  index_t hq = io.q.extent(1), hk = io.k.extent(1), d = io.q.extent(2), dv = io.v.extent(2);
  require_shape("q", io.q, {q_rows, hq, d});
  require_shape("k", io.k, {k_rows, hk, d});
  require_shape("v", io.v, {k_rows, hk, dv});
  require_shape("out", io.out, {q_rows, hq, dv});
  if (io.sinks.data) require_shape("sinks", io.sinks, {hq});
  refuse_aliasing({{"out", io.out}}, {{"q", io.q}, {"k", io.k}, {"v", io.v}, {"sinks", io.sinks}});
}

template <class T, class G, class M>
void check_backward(backward_io<T, G, M> const& io, index_t q_rows, index_t k_rows) {
  index_t hq = io.q.extent(1), hk = io.k.extent(1), d = io.q.extent(2), dv = io.v.extent(2);
  require_shape("q", io.q, {q_rows, hq, d});
  require_shape("k", io.k, {k_rows, hk, d});
  require_shape("v", io.v, {k_rows, hk, dv});
  require_shape("out", io.out, {q_rows, hq, dv});
  require_shape("dout", io.dout, {q_rows, hq, dv});
  require_shape("dq", io.dq, {q_rows, hq, d});
  require_shape("dk", io.dk, {k_rows, hk, d});
  require_shape("dv", io.dv, {k_rows, hk, dv});
  if (io.extras.sinks.data && !io.extras.dsinks.data)
    fail({errc::bad_pointer, "sinks were given, dsinks were not", "Pass memory for the sinks' gradient"});
  if (io.extras.sinks.data) require_shape("sinks", io.extras.sinks, {hq});
  if (io.extras.dsinks.data) require_shape("dsinks", io.extras.dsinks, {hq});
  refuse_aliasing({{"dq", io.dq}, {"dk", io.dk}, {"dv", io.dv}, {"dsinks", io.extras.dsinks}},
                  {{"q", io.q}, {"k", io.k}, {"v", io.v}, {"out", io.out}, {"dout", io.dout}, {"sinks", io.extras.sinks}});
}

/// A workspace holds what a whole backward call takes: in the middle of it, it would be too late to try again.
template <class T, class Object, class Prepared, class Queue, class Io>
void require_room(Object const& object, Prepared const& p, context<Queue> const& ctx, Io const& io) {
  detail::require_room(ctx, [&] {
    return object.template scratch_bytes<T>(p, {io.on.q_count, io.on.kv_count, io.q.extent(2), io.v.extent(2)}, ctx.queue);
  });
}

} // namespace sp::detail
