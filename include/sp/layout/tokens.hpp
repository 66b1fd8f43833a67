// What a trainer needs per token of its share: rows of global tensors, positions, shifted labels, cu_seqlens, weights, marked rows.
// All of it follows from the batch without communication; global tensors count positions as the caller's documents do.
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
template <class T, int R>
void check_rows(batch const& b, view<T, R> const& v, char const* primitive) {
  if (v.extent(0) != b.tokens())
    fail({errc::invalid_shape,
          "the local tensor has " + std::to_string(v.extent(0)) + " rows, this rank owns " + std::to_string(b.tokens()),
          "Allocate batch.tokens() rows", primitive, b.part(), b.parts()});
}

/// One of the two is written: the one whose elements are not const.
template <class Global, class Local, int R>
void check_global(batch const& b, view<Global, R> const& global, view<Local, R> const& local, char const* primitive) {
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

/// Copies what `map` sends from the caller's stream into this rank's rows.
template <class T, int R>
void take(batch const& b, std::span<mapping const> map, view<T const, R> global, view<T, R> local) {
  run all{0, b.source().length(), 1};
  for_each_match(std::span<run const>(&all, 1), b.runs(), map, [&](row_match const& m) {
    piece to = as_piece(local.rows(m.to_row, m.count, m.to_step)), from = as_piece(global.rows(m.from_row, m.count, m.from_step));
    copy({&to, 1}, {&from, 1});
  });
}
} // namespace detail

/// This rank's rows of a global tensor: global (stream, ...) -> local (batch.tokens(), ...); slack rows get `value`.
template <class From, class T, int R>
void split(batch const& b, view<From, R> global, view<T, R> local, std::type_identity_t<T> value = T{}) {
  static_assert(detail::require_rows_move<From, T>());
  detail::check_global<T const, T, R>(b, global, local, "split");
  sp::fill(local, value);
  detail::take<T, R>(b, document_map(b.source(), b.docs()), global, local);
}

/// Next-token labels, shifted in the stream and then sharded: the label of a row is the token behind it in the same document,
/// `ignore` for the last of a document and for slack. `by` >= 0 looks further ahead.
template <class From, class T>
void shifted_labels(batch const& b, view<From, 1> tokens, view<T, 1> labels, std::type_identity_t<T> ignore, index_t by = 1) {
  static_assert(detail::require_rows_move<From, T>());
  detail::check_global<T const, T, 1>(b, tokens, labels, "shifted_labels");
  auto map = located({"shifted_labels", "", b.part(), b.parts()}, [&] { return shift_map(b.source(), b.docs(), by); });
  sp::fill(labels, ignore);
  detail::take<T, 1>(b, map, tokens, labels);
}

/// From where positions are counted.
enum class positions_in { document, stream };
/// Positions of this rank's rows: inside their document (for rotary embeddings), or in the caller's stream. Slack rows get 0.
inline void positions(batch const& b, view<index_t, 1> out, positions_in what = positions_in::document) {
  detail::check_rows(b, out, "positions");
  sp::fill(out, 0);
  for_each_row(b, [&](local_row const& r) {
    if (r.real) out(r.row) = what == positions_in::document ? r.offset : source_position(b, r);
  });
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
template <class Weight, class Label>
void loss_weights(batch const& b, view<Label, 1> labels, view<Weight, 1> weights, std::type_identity_t<Label> ignore) {
  detail::check_rows(b, labels, "loss_weights");
  detail::check_rows(b, weights, "loss_weights");
  sp::fill(weights, Weight{0});
  for_each_row(b, [&](local_row const& r) {
    if (r.real && labels(r.row) != ignore) weights(r.row) = Weight{1};
  });
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
