// The messages of one exchange for a transport of contiguous blocks, in an order that both ends of a pair know without a word.
// Integers and addresses only: which block goes to whom, what is packed before and unpacked behind. Nothing is read or sent here.
#pragma once

#include <vector>

#include <sp/collective/concepts.hpp>
#include <sp/core/index.hpp>

namespace sp::detail {

/// A block on its way to a peer, or from one.
struct message_block {
  int peer = 0;
  std::byte* data = nullptr;
  index_t bytes = 0;
};

/// Copies of one pass: pieces read end to end, and where they go.
struct piece_copies {
  std::vector<piece> to, from;
  void clear() noexcept { to.clear(), from.clear(); }
};

/// An all-gather in one call: block r of `to` is rank r's, `from` is this rank's.
struct gathered_blocks {
  std::byte const* from = nullptr;
  std::byte* to = nullptr;
  index_t bytes = 0; ///< of each block
};

/// A sum over ranks in one call, in place.
struct summed_block {
  std::byte* data = nullptr;
  index_t bytes = 0;
};

/// One exchange. Its vectors keep their memory, so that a steady state allocates nothing.
class message_list {
public:
  /// What everybody but `rank` itself is sent and sends: a message for each piece where both ends cut parcels alike, else one for each
  /// parcel. Those without bytes are left out, on both sides by the same rule.
  void assign(traffic const& t, int rank) {
    clear();
    for (parcel const& p : t.sends)
      if (p.peer != rank) add(sends_, p, t.form.same_pieces);
    for (parcel const& p : t.receives)
      if (p.peer != rank) add(receives_, p, t.form.same_pieces);
  }
  /// The same where all of `size` ranks are sent the one parcel of t.sends: packed once.
  void assign_gather(traffic const& t, int rank, int size) {
    clear();
    for (parcel const& p : t.receives)
      if (p.peer != rank) add(receives_, p, t.form.same_pieces);
    if (t.sends.empty()) return;
    for (int r = 0; r < size; ++r) {
      if (r == rank) continue;
      if (sends_.empty()) {
        add(sends_, {r, t.sends[0].pieces}, t.form.same_pieces);
        first_copies_ = sends_.size();
      } else {
        for (std::size_t i = 0; i < first_copies_; ++i) sends_.push_back(sends_[i]), sends_.back().block.peer = r;
      }
    }
  }
  /// The same in one call: possible where every rank gives as many bytes, which each can see in what it receives.
  [[nodiscard]] static bool gathers_equal_blocks(traffic const& t, int rank, int size) {
    if (t.sends.size() != 1 || t.receives.size() != std::size_t(size)) return false;
    index_t const bytes = total_bytes(t.sends[0].pieces);
    for (parcel const& p : t.receives)
      if (p.peer != rank && total_bytes(p.pieces) != bytes) return false;
    return bytes > 0;
  }
  void assign_equal_gather(traffic const& t, int rank, int size) {
    clear();
    gather_ = t;
    rank_ = rank;
    blocks_ = {nullptr, nullptr, total_bytes(t.sends[0].pieces)};
    blocks_.to = in_place(size);
    if (!blocks_.to) room_ = blocks_.bytes * size;
  }

  /// No messages but a sum of everybody's values.
  void assign_sum(piece const& values) {
    clear();
    sum_ = values;
    sum_block_ = {where_it_lies({&sum_, 1}), values.bytes()};
    if (!sum_block_.data) room_ = sum_block_.bytes;
  }

  /// Bytes of the memory that place() needs.
  [[nodiscard]] index_t room() const noexcept { return room_; }
  /// Packed messages lie in `room`, which is aligned as they are to be.
  void place(std::byte* room) {
    if (blocks_.bytes > 0) return place_gather(room);
    if (room_ > 0 && sum_block_.bytes > 0) {
      sum_block_.data = room;
      copy(packs_, block_of(room, sum_block_.bytes), {&sum_, 1}, true);
      copy(unpacks_, block_of(room, sum_block_.bytes), {&sum_, 1}, false);
    }
    auto block = [](message const& m) { return block_of(m.block.data, m.block.bytes); };
    for (std::vector<message>* list : {&sends_, &receives_})
      for (message& m : *list)
        if (m.at >= 0) m.block.data = room + m.at;
    std::size_t left = first_copies_ > 0 ? first_copies_ : sends_.size();
    for (message const& m : sends_)
      if (left > 0 && left-- > 0 && m.at >= 0) copy(packs_, block(m), m.pieces, true);
    for (message const& m : receives_)
      if (m.at >= 0) copy(unpacks_, block(m), m.pieces, false);
  }

  struct message {
    message_block block;
    std::span<piece const> pieces;
    index_t at; ///< where it is packed in the room; -1: it is contiguous as it lies
  };
  [[nodiscard]] std::span<message const> sends() const noexcept { return sends_; }
  [[nodiscard]] std::span<message const> receives() const noexcept { return receives_; }
  [[nodiscard]] piece_copies const& packs() const noexcept { return packs_; }
  [[nodiscard]] piece_copies const& unpacks() const noexcept { return unpacks_; }
  /// Of assign_equal_gather(); else null.
  [[nodiscard]] gathered_blocks const& gathered() const noexcept { return blocks_; }
  /// Of assign_sum(); else without bytes.
  [[nodiscard]] summed_block const& summed() const noexcept { return sum_block_; }
  /// Everybody takes part in one call.
  [[nodiscard]] bool in_one_call() const noexcept { return blocks_.bytes > 0 || sum_block_.bytes > 0; }
  /// Nothing is sent and nothing comes.
  [[nodiscard]] bool empty() const noexcept { return sends_.empty() && receives_.empty() && !in_one_call(); }

  /// A block as a piece.
  static piece block_of(std::byte* data, index_t bytes) { return as_piece(view<std::byte, 1>(data, {bytes})); }

private:
  void clear() noexcept {
    sends_.clear(), receives_.clear();
    packs_.clear(), unpacks_.clear();
    room_ = 0, first_copies_ = 0;
    blocks_ = {};
    sum_block_ = {};
  }
  void add(std::vector<message>& list, parcel const& p, bool by_piece) {
    if (!by_piece) return add(list, p.peer, p.pieces);
    for (piece const& x : p.pieces) add(list, p.peer, {&x, 1});
  }
  void add(std::vector<message>& list, int peer, std::span<piece const> pieces) {
    index_t const bytes = total_bytes(pieces);
    if (bytes == 0) return;
    std::byte* const lies = where_it_lies(pieces);
    list.push_back({{peer, lies, bytes}, pieces, lies ? -1 : room_});
    if (!lies) room_ += round_up(bytes, message_form::alignment);
  }
  /// The begin of pieces that are one block; null for others.
  static std::byte* where_it_lies(std::span<piece const> pieces) {
    std::byte *first = nullptr, *end = nullptr;
    for (piece const& p : pieces) {
      if (p.bytes() == 0) continue;
      std::byte* const begin = p.data + (p.rows.empty() ? 0 : p.rows[0].first * p.strides[0]);
      if (!in_one_block(p) || (end && begin != end)) return nullptr;
      if (!first) first = begin;
      end = begin + p.bytes();
    }
    return first;
  }
  static void copy(piece_copies& list, piece const& block, std::span<piece const> pieces, bool into_block) {
    (into_block ? list.to : list.from).push_back(block);
    auto& other = into_block ? list.from : list.to;
    other.insert(other.end(), pieces.begin(), pieces.end());
  }

  /// Where all blocks are to lie, if that is one after the other, this rank's included; else null.
  std::byte* in_place(int size) const {
    std::byte* begin = nullptr;
    bool own = false;
    for (parcel const& p : gather_.receives) {
      bool const mine = p.peer == rank_ && total_bytes(p.pieces) == 0;
      std::byte* const lies = where_it_lies(mine ? gather_.sends[0].pieces : p.pieces);
      if (!lies) return nullptr;
      std::byte* const first = lies - p.peer * blocks_.bytes;
      if (begin && first != begin) return nullptr;
      begin = first;
      own = own || p.peer == rank_;
    }
    return own && int(gather_.receives.size()) == size ? begin : nullptr;
  }
  /// Where they are not to lie like that they are gathered in the room, and so is this rank's.
  void place_gather(std::byte* room) {
    auto const mine = gather_.sends[0].pieces;
    bool const packed = !blocks_.to;
    if (packed) blocks_.to = room;
    auto at = [&](int r) { return blocks_.to + r * blocks_.bytes; };
    std::byte* const lies = packed ? nullptr : where_it_lies(mine);
    blocks_.from = lies ? lies : at(rank_);
    if (!lies) copy(packs_, block_of(at(rank_), blocks_.bytes), mine, true);
    for (parcel const& p : gather_.receives)
      if (packed && total_bytes(p.pieces) > 0) copy(unpacks_, block_of(at(p.peer), blocks_.bytes), p.pieces, false);
  }

  std::vector<message> sends_, receives_;
  piece_copies packs_, unpacks_;
  index_t room_ = 0;
  std::size_t first_copies_ = 0; ///< of a gather: messages of the first peer; the others are sent the same blocks
  traffic gather_{};             ///< of a gather in one call
  gathered_blocks blocks_;
  piece sum_{};
  summed_block sum_block_;
  int rank_ = 0;
};

} // namespace sp::detail
