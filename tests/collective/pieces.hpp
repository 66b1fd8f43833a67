// Small tools of the communicator tests: values that name their sender, views of vectors, and exchanges of whole lists.
// Values are computed from (sender, receiver, position), so that a byte in the wrong place is seen.
#pragma once

#include <vector>

#include <sp/collective/concepts.hpp>

namespace collective_tests {

using sp::index_t;
using sp::parcel;
using sp::piece;

template <class T>
sp::view<T, 1> all(std::vector<T>& v) {
  return {v.data(), {index_t(v.size())}};
}

/// The i-th value that `from` sends to `to` in round `round`.
inline int token_value(int from, int to, int round, index_t i) { return ((from * 16 + to) * 64 + round) * 1024 + int(i); }

/// Buffers and parcels for one exchange of count(from, to) ints between all ranks, oneself included.
template <class Count>
struct everybody {
  int rank, size, round;
  Count count;
  std::vector<std::vector<int>> out, in;
  std::vector<piece> out_pieces, in_pieces;
  std::vector<parcel> sends, receives;

  everybody(int rank_, int size_, int round_, Count count_) : rank(rank_), size(size_), round(round_), count(count_) {
    for (int p = 0; p < size; ++p) {
      out.emplace_back(std::size_t(count(rank, p)));
      in.emplace_back(std::size_t(count(p, rank)), -1);
      for (std::size_t i = 0; i < out.back().size(); ++i) out.back()[i] = token_value(rank, p, round, index_t(i));
    }
    for (int p = 0; p < size; ++p) {
      out_pieces.push_back(sp::as_piece(all(out[std::size_t(p)])));
      in_pieces.push_back(sp::as_piece(all(in[std::size_t(p)])));
    }
    for (int p = 0; p < size; ++p) {
      sends.push_back({p, {&out_pieces[std::size_t(p)], 1}});
      receives.push_back({p, {&in_pieces[std::size_t(p)], 1}});
    }
  }
  everybody(everybody const&) = delete;

  sp::traffic traffic(char const* primitive) const { return {primitive, sends, receives}; }
  bool arrived() const {
    for (int p = 0; p < size; ++p)
      for (std::size_t i = 0; i < in[std::size_t(p)].size(); ++i)
        if (in[std::size_t(p)][i] != token_value(p, rank, round, index_t(i))) return false;
    return true;
  }
};

/// A ring step of one int: to the next rank, from the one before.
struct ring_step {
  int out, in = -1;
  piece out_piece, in_piece;
  parcel send, receive;

  ring_step(int rank, int size, int value) : out(value) {
    out_piece = sp::as_piece(sp::view<int, 1>(&out, {1}));
    in_piece = sp::as_piece(sp::view<int, 1>(&in, {1}));
    send = {(rank + 1) % size, {&out_piece, 1}};
    receive = {(rank + size - 1) % size, {&in_piece, 1}};
  }
  ring_step(ring_step const&) = delete;
  sp::traffic traffic(char const* primitive = "ring") const { return {primitive, {&send, 1}, {&receive, 1}}; }
};

} // namespace collective_tests
