// What a trainer needs per token of its share: rows of global tensors, positions, shifted labels, cu_seqlens, weights, marked rows.
// All of it follows from the batch alone, as work of a queue; without one, over host tensors at once. Global tensors count positions as
// the caller's documents do.
#pragma once

#include <sp/core/elementwise.hpp>
#include <sp/core/footprint.hpp>
#include <sp/core/piece.hpp>
#include <sp/core/sort.hpp>
#include <sp/layout/batch.hpp>
#include <sp/layout/row_match.hpp>

namespace sp {

/// One row of a rank's tensors: token `offset` of document `document`; slack rows have offset >= the document's count.
struct local_row {
  index_t row = 0;
  std::size_t document = 0;
  index_t offset = 0;
  bool real = true;
};

/// Calls f(local_row) for every row of `part`, slack included, document by document.
template <class F>
void for_each_row(batch const& b, F&& f, int part = -1) {
  auto const& docs = b.docs();
  index_t base = 0;
  for (run const& r : b.layout().runs(part < 0 ? b.part() : part)) {
    detail::for_each_document(docs, r, [&](std::size_t d, interval in) {
      for (index_t i = in.first; i < in.first + in.count; ++i) {
        index_t offset = r.at(i) - docs[d].begin;
        f(local_row{base + i, d, offset, offset < docs[d].count});
      }
    });
    base += r.count;
  }
}

/// The caller's stream position of a real row.
[[nodiscard]] inline index_t source_position(batch const& b, local_row const& r) {
  return b.source()[r.document].begin + r.offset;
}

namespace detail {
/// A tensor with one row per token of this rank.
template <class T, int R, class M>
void check_rows(batch const& b, view<T, R, M> const& v, char const* primitive) {
  if (v.extent(0) != b.tokens())
    fail({errc::invalid_shape,
          "the local tensor has " + std::to_string(v.extent(0)) + " rows, this rank owns " + std::to_string(b.tokens()),
          "Allocate batch.tokens() rows", primitive, b.part(), b.parts()});
}

/// One of the two is written: the one whose elements are not const.
template <class Global, class Local, int R, class M>
void check_global(batch const& b, view<Global, R, M> const& global, view<Local, R, M> const& local, char const* primitive) {
  static_assert(std::is_const_v<Global> != std::is_const_v<Local>);
  if (global.extent(0) != b.source().length())
    fail({errc::bad_documents,
          "the global tensor has " + std::to_string(global.extent(0)) + " rows, the documents' stream " +
              std::to_string(b.source().length()),
          "Make cu_seqlens and tensor agree; a tail of slack is declared by the stream length", primitive, b.part(), b.parts()});
  check_rows(b, local, primitive);
  for (int d = 1; d < R; ++d)
    if (global.extent(d) != local.extent(d))
      fail({errc::invalid_shape, "tensors " + shape(global) + " and " + shape(local) + " differ behind the rows",
            "Give equal trailing extents", primitive, b.part(), b.parts()});
  footprint const here("local", local), everywhere("global", global);
  bool const gathers = std::is_const_v<Local>;
  located({primitive, "", b.part(), b.parts()},
          [&] { refuse_aliasing({gathers ? everywhere : here}, {gathers ? here : everywhere}); });
}

/// Copies what `map` sends from the caller's stream into this rank's rows: in one call where work runs later, or elsewhere.
template <class Q, class T, int R>
void take(Q const& q, batch const& b, std::span<mapping const> map, view_on<Q, T const, R> global, view_on<Q, T, R> local) {
  run all{0, b.source().length(), 1};
  std::vector<piece> all_to, all_from;
  for_each_match(std::span<run const>(&all, 1), b.runs(), map, [&](row_match const& m) {
    piece to = as_piece(local.rows(m.to_row, m.count, m.to_step)), from = as_piece(global.rows(m.from_row, m.count, m.from_step));
    if constexpr (runs_on_host<Q>)
      q.copy({&to, 1}, {&from, 1});
    else
      all_to.push_back(to), all_from.push_back(from);
  });
  if (!all_to.empty()) q.copy(all_to, all_from);
}

/// Rows first, first + 1, ... of a rank hold tokens offset, offset + step, ... of the document that begins at `begin` in the caller's
/// stream.
struct token_rows {
  index_t first = 0, count = 0, offset = 0, step = 1, begin = 0;
};

/// Calls f(token_rows) for all rows of this rank but slack.
template <class F>
void for_each_token_rows(batch const& b, F&& f) {
  auto const& docs = b.docs();
  index_t base = 0;
  for (run const& r : b.runs()) {
    for_each_document(docs, r, [&](std::size_t d, interval in) {
      index_t const offset = r.at(in.first) - docs[d].begin;
      index_t const count = min(in.count, ceil_div(docs[d].count - offset, r.stride)); // slack is behind the tokens
      if (count > 0) f(token_rows{base + in.first, count, offset, r.stride, b.source()[d].begin});
    });
    base += r.count;
  }
}

/// body(token_rows, i) for the tokens of up to Most lists of rows in one pass: so many fit into the parameters of a kernel.
template <std::size_t Most, class Body>
struct token_pass {
  Body body;
  index_t tokens = 0;
  std::size_t used = 0;
  std::array<token_rows, Most> lists{};

  SP_BOTH void operator()(index_t i) const {
    token_rows const* at = &SP_ENTRIES(lists)[0];
    if constexpr (Most > 1)
      for (; i >= at->count; ++at) i -= at->count;
    body(*at, i);
  }
};

/// body(token_rows, i) once for every row of this rank but slack. Passes of the caller's thread are plain loops.
template <class Q, class Body>
void for_each_token(Q const& q, batch const& b, Body const& body) {
  constexpr std::size_t most = runs_on_host<Q> ? 1 : 32;
  token_pass<most, Body> pass{body};
  auto run_it = [&] {
    q.for_each(std::array<index_t, 1>{pass.tokens}, pass);
    pass.tokens = 0, pass.used = 0;
  };
  for_each_token_rows(b, [&](token_rows const& r) {
    pass.lists[pass.used++] = r;
    pass.tokens += r.count;
    if (pass.used == most) run_it();
  });
  if (pass.used > 0) run_it();
}

template <class M>
struct position_body {
  view<index_t, 1, M> out;
  bool in_stream;
  SP_BOTH void operator()(token_rows const& r, index_t i) const {
    out(r.first + i) = (in_stream ? r.begin : 0) + r.offset + i * r.step;
  }
};
template <class Weight, class Label, class M>
struct weight_body {
  view<Weight, 1, M> weights;
  view<Label, 1, M> labels;
  std::remove_const_t<Label> ignore;
  Weight one;
  SP_BOTH void operator()(token_rows const& r, index_t i) const {
    if (labels(r.first + i) != ignore) weights(r.first + i) = one;
  }
};
} // namespace detail

/// This rank's rows of a global tensor: global (stream, ...) -> local (batch.tokens(), ...); slack rows get `value`. Both in memory of
/// the queue.
template <queue Q, class From, class T, int R>
void split(Q const& q, batch const& b, detail::view_on<Q, From, R> global, detail::view_on<Q, T, R> local,
           std::type_identity_t<T> value = T{}) {
  static_assert(detail::require_rows_move<From, T>());
  detail::check_global<T const, T, R, typename Q::memory_type>(b, global, local, "split");
  sp::fill(q, local, value);
  detail::take<Q, T, R>(q, b, document_map(b.source(), b.docs()), global, local);
}
template <class From, class T, int R>
void split(batch const& b, view<From, R> global, view<T, R> local, std::type_identity_t<T> value = T{}) {
  sp::split(inline_queue{}, b, global, local, value);
}

/// Next-token labels, shifted in the stream and then sharded: the label of a row is the token behind it in the same document,
/// `ignore` for the last of a document and for slack. `by` >= 0 looks further ahead.
template <queue Q, class From, class T>
void shifted_labels(Q const& q, batch const& b, detail::view_on<Q, From, 1> tokens, detail::view_on<Q, T, 1> labels,
                    std::type_identity_t<T> ignore, index_t by = 1) {
  static_assert(detail::require_rows_move<From, T>());
  detail::check_global<T const, T, 1, typename Q::memory_type>(b, tokens, labels, "shifted_labels");
  auto map = located({"shifted_labels", "", b.part(), b.parts()}, [&] { return shift_map(b.source(), b.docs(), by); });
  sp::fill(q, labels, ignore);
  detail::take<Q, T, 1>(q, b, map, tokens, labels);
}
template <class From, class T>
void shifted_labels(batch const& b, view<From, 1> tokens, view<T, 1> labels, std::type_identity_t<T> ignore, index_t by = 1) {
  sp::shifted_labels(inline_queue{}, b, tokens, labels, ignore, by);
}

/// From where positions are counted.
enum class positions_in { document, stream };
/// Positions of this rank's rows: inside their document (for rotary embeddings), or in the caller's stream. Slack rows get 0.
template <queue Q>
void positions(Q const& q, batch const& b, detail::view_on<Q, index_t, 1> out, positions_in what = positions_in::document) {
  detail::check_rows(b, out, "positions");
  sp::fill(q, out, 0);
  detail::for_each_token(q, b, detail::position_body<typename Q::memory_type>{out, what == positions_in::stream});
}
inline void positions(batch const& b, view<index_t, 1> out, positions_in what = positions_in::document) {
  sp::positions(inline_queue{}, b, out, what);
}

/// cu_seqlens of this rank's rows: entry d + 1 minus entry d is how many rows of document d it holds, slack included.
[[nodiscard]] inline std::vector<index_t> local_cu_seqlens(batch const& b) {
  std::vector<index_t> cu(b.docs().size() + 1);
  for_each_row(b, [&](local_row const& r) { ++cu[r.document + 1]; });
  for (std::size_t d = 1; d < cu.size(); ++d) cu[d] += cu[d - 1];
  return cu;
}

/// Real tokens of document d on `part`.
[[nodiscard]] inline index_t real_tokens(batch const& b, std::size_t d, int part) {
  index_t n = 0;
  auto const& x = b.docs()[d];
  for (run const& r : b.layout().runs(part)) n += clip(r, x.begin, x.end()).count;
  return n;
}

/// 1 for rows that count in a loss, 0 for slack and for rows whose label is `ignore`.
template <queue Q, class Weight, class Label>
void loss_weights(Q const& q, batch const& b, detail::view_on<Q, Label, 1> labels, detail::view_on<Q, Weight, 1> weights,
                  std::type_identity_t<Label> ignore) {
  detail::check_rows(b, labels, "loss_weights");
  detail::check_rows(b, weights, "loss_weights");
  sp::fill(q, weights, Weight{0});
  detail::for_each_token(q, b, detail::weight_body<Weight, Label, typename Q::memory_type>{weights, labels, ignore, Weight{1}});
}
template <class Weight, class Label>
void loss_weights(batch const& b, view<Label, 1> labels, view<Weight, 1> weights, std::type_identity_t<Label> ignore) {
  sp::loss_weights<inline_queue, Weight, Label>(inline_queue{}, b, labels, weights, ignore);
}

/// Who owns a position of the caller's stream.
[[nodiscard]] inline owner owner_of(batch const& b, index_t position) {
  std::size_t const d = b.source().at_or_before(position);
  if (b.source().size() == 0 || !b.source()[d].holds(position)) return {};
  return b.layout().owner_of(b.docs()[d].begin + position - b.source()[d].begin);
}

/// This rank's rows among the marked positions of the caller's stream (image tokens, say), in row order.
template <class Flag>
[[nodiscard]] std::vector<index_t> local_rows(batch const& b, std::span<Flag> marked) {
  if (index_t(marked.size()) != b.source().length())
    fail({errc::bad_documents,
          std::to_string(marked.size()) + " marks for a stream of " + std::to_string(b.source().length()) + " positions",
          "Give one mark per position", "local_rows", b.part(), b.parts()});
  std::vector<index_t> rows;
  for_each_row(b, [&](local_row const& r) {
    if (r.real && marked[std::size_t(source_position(b, r))] != Flag{}) rows.push_back(r.row);
  });
  detail::sort(rows, [](index_t x, index_t y) { return x < y; });
  return rows;
}

} // namespace sp
