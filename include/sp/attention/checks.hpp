// Argument checks of attention calls: shapes, pointers, aliasing. All local, before any communication, under a microsecond.
// Each failure names what was given, what was expected and the remedy; `located` adds rank and primitive.
#pragma once

#include <sp/attention/call.hpp>

namespace sp::detail {

template <class T, int R, class M>
void require_shape(char const* name, view<T, R, M> const& v, std::array<index, std::size_t(R)> want) {
  view<T, R, M> expected;
  expected.extents = want;
  for (int d = 0; d < R; ++d)
    if (v.extent(d) != want[std::size_t(d)])
      fail({d == 0 && R == 3 ? errc::bad_documents : errc::invalid_shape,
            std::string(name) + " is " + shape(v) + ", expected " + shape(expected) + (d == 0 ? " (rows of this rank's documents)" : ""),
            d == 0 ? "Rows must equal batch.tokens(); declare padding with shapes::padded" : "Make the tensors of one call agree"});
  if (!v.data && !v.empty()) fail({errc::bad_pointer, std::string(name) + " " + shape(v) + " is null", "Pass memory for every non-empty tensor"});
  if (reinterpret_cast<std::uintptr_t>(v.data) % alignof(T) != 0)
    fail({errc::bad_pointer, std::string(name) + " is not aligned to " + std::to_string(alignof(T)) + " bytes", "Align tensors to their element type"});
}

/// The bytes a tensor spans, and where its rows repeat.
struct footprint {
  char const* name;
  std::intptr_t begin = 0, end = 0, row = 0, inner = 0; // [begin, end); row stride; bytes one row spans

  template <class T, int R, class M>
  footprint(char const* n, view<T, R, M> const& v) : name(n) {
    if (v.empty() || !v.data) return;
    begin = reinterpret_cast<std::intptr_t>(v.data);
    inner = index(sizeof(T));
    for (int d = 1; d < R; ++d) {
      auto span = (v.extent(d) - 1) * v.stride(d) * index(sizeof(T));
      inner += span < 0 ? -span : span;
      begin += span < 0 ? span : 0;
    }
    row = v.stride(0) * index(sizeof(T));
    auto span = (v.extent(0) - 1) * row;
    end = begin + inner + (span < 0 ? -span : span);
    begin += span < 0 ? span : 0;
    row = row < 0 ? -row : row;
  }

  bool meets(footprint const& o) const {
    if (end <= o.begin || o.end <= begin) return false;
    if (row != o.row || row == 0) return true;
    auto shift = ((o.begin - begin) % row + row) % row; // interleaved rows (packed QKV) may share a range without sharing a byte
    return shift < inner || shift + o.inner > row;
  }
};

/// Nothing written may overlap anything else of the call.
inline void refuse_aliasing(std::initializer_list<footprint> written, std::initializer_list<footprint> read) {
  auto refuse = [](footprint const& a, footprint const& b) {
    if (a.meets(b))
      fail({errc::aliasing, std::string(a.name) + " overlaps " + b.name, "Attention is not in-place: give outputs memory of their own"});
  };
  for (auto const* w = written.begin(); w != written.end(); ++w) {
    for (auto const* o = w + 1; o != written.end(); ++o) refuse(*w, *o);
    for (footprint const& r : read) refuse(*w, r);
  }
}

template <class T, class M>
void check_heads(view<T, 3, M> const& q, view<T, 3, M> const& k, view<T, 3, M> const& v) {
  if (q.extent(2) <= 0 || v.extent(2) <= 0)
    fail({errc::invalid_shape, "head dimensions of q " + shape(q) + " and v " + shape(v), "dim must be positive"});
  if (k.extent(1) <= 0 || q.extent(1) <= 0 || q.extent(1) % k.extent(1) != 0)
    fail({errc::invalid_shape, std::to_string(q.extent(1)) + " query heads are not a multiple of " + std::to_string(k.extent(1)) + " kv heads",
          "Global query heads must be a positive multiple of global kv heads"});
}

template <class T, class M>
void check_forward(forward_io<T, M> const& io, index q_rows, index k_rows) {
  index hq = io.q.extent(1), hk = io.k.extent(1), d = io.q.extent(2), dv = io.v.extent(2);
  require_shape("q", io.q, {q_rows, hq, d});
  require_shape("k", io.k, {k_rows, hk, d});
  require_shape("v", io.v, {k_rows, hk, dv});
  require_shape("out", io.out, {q_rows, hq, dv});
  if (io.sinks.data) require_shape("sinks", io.sinks, {hq});
  refuse_aliasing({{"out", io.out}}, {{"q", io.q}, {"k", io.k}, {"v", io.v}});
}

template <class T, class G, class M>
void check_backward(backward_io<T, G, M> const& io, index q_rows, index k_rows) {
  index hq = io.q.extent(1), hk = io.k.extent(1), d = io.q.extent(2), dv = io.v.extent(2);
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
  if (io.extras.dsinks.data) require_shape("dsinks", io.extras.dsinks, {hq});
  refuse_aliasing({{"dq", io.dq}, {"dk", io.dk}, {"dv", io.dv}},
                  {{"q", io.q}, {"k", io.k}, {"v", io.v}, {"out", io.out}, {"dout", io.dout}});
}

} // namespace sp::detail
