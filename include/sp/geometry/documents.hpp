// Documents: the pieces of a packed stream that must not see each other. Gaps between them are slack that belongs to nobody.
// Built from cu_seqlens, rectangles, padding masks or position ids; offsets are untrusted and checked with their values.
#pragma once

#include <concepts>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <sp/core/index.hpp>

namespace sp {

/// Tokens [begin, begin + count) of the stream; [begin + count, begin + room) is padding that a sharding spreads with them.
struct document {
  index_t begin = 0;
  index_t count = 0;
  index_t room = 0;
  index_t id = 0; ///< the caller's name for it: random numbers are keyed by it, so packing order does not matter

  [[nodiscard]] constexpr index_t end() const noexcept { return begin + count; }
  /// Whether one of its tokens stands at `position`.
  [[nodiscard]] constexpr bool holds(index_t position) const noexcept { return begin <= position && position < end(); }
  friend constexpr bool operator==(document const&, document const&) = default;
};

/// Documents in stream order over a stream of `length()` positions.
class documents {
public:
  constexpr documents() = default;

  /// Any list in ascending order without overlap; `length` positions in all (at least the last room's end).
  constexpr documents(std::vector<document> list, index_t length) : list_(std::move(list)), length_(length) {
    index_t end = 0;
    for (std::size_t d = 0; d < list_.size(); ++d) {
      document const& x = list_[d];
      if (x.count < 0 || x.room < x.count)
        fail({errc::bad_documents,
              "document " + std::to_string(d) + " has count " + std::to_string(x.count) + " and room " + std::to_string(x.room),
              "0 <= count <= room: room is the tokens and the padding behind them"});
      if (x.begin < end)
        fail({errc::bad_documents,
              "document " + std::to_string(d) + " begins at " + std::to_string(x.begin) + ", its predecessor ends at " +
                  std::to_string(end),
              "Give documents in ascending order without overlap"});
      end = checked_add(x.begin, x.room);
    }
    if (length < end)
      fail({errc::bad_documents,
            "documents end at " + std::to_string(end) + ", the stream has " + std::to_string(length) + " positions",
            "Make offsets and tensor agree"});
    if (length > unbounded) // differences of positions stay clear of the bounds of masks
      fail({errc::size_overflow, "a stream of " + std::to_string(length) + " positions",
            "Check the offsets: no stream is that long"});
  }

  /// From cumulative lengths {0, n0, n0 + n1, ...}. `length` may exceed the last offset: the tail is slack.
  constexpr static documents packed(std::span<index_t const> cu_seqlens, index_t length = -1) {
    if (cu_seqlens.empty() || cu_seqlens[0] != 0)
      fail({errc::bad_documents,
            cu_seqlens.empty() ? std::string("cu_seqlens is empty") : "cu_seqlens[0] is " + std::to_string(cu_seqlens[0]),
            "cu_seqlens starts with 0 and holds one entry more than there are documents"});
    std::vector<document> list;
    for (std::size_t i = 1; i < cu_seqlens.size(); ++i) {
      if (cu_seqlens[i] < cu_seqlens[i - 1])
        fail({errc::bad_documents,
              "cu_seqlens[" + std::to_string(i) + "] is " + std::to_string(cu_seqlens[i]) + " after " +
                  std::to_string(cu_seqlens[i - 1]),
              "Offsets must not decrease"});
      index_t n = cu_seqlens[i] - cu_seqlens[i - 1];
      list.push_back({cu_seqlens[i - 1], n, n, index_t(i) - 1});
    }
    if (length == -1) length = cu_seqlens.back();
    return {std::move(list), length};
  }

  /// `batch` documents of `tokens` positions each, one behind the other: a rectangular (batch, tokens, ...) tensor.
  constexpr static documents rectangular(index_t batch, index_t tokens) {
    check_batch(batch, tokens);
    index_t length = checked_mul(batch, tokens); // first, so that absurd sizes fail before they fill a list
    std::vector<document> list;
    for (index_t b = 0; b < batch; ++b) list.push_back({b * tokens, tokens, tokens, b});
    return {std::move(list), length};
  }

  /// From a padding mask (batch, tokens), non-zero where a token is real; padding may stand left or right (or both sides) of each row.
  template <class Flag>
  constexpr static documents from_padding_mask(std::span<Flag const> mask, index_t batch, index_t tokens) {
    check_batch(batch, tokens);
    if (index_t(mask.size()) != checked_mul(batch, tokens))
      fail({errc::bad_documents,
            "the padding mask has " + std::to_string(mask.size()) + " entries, batch times tokens is " +
                std::to_string(batch * tokens),
            "Pass one entry per token"});
    std::vector<document> list;
    for (index_t b = 0; b < batch; ++b) {
      auto real = [&](index_t t) { return mask[std::size_t(b * tokens + t)] != Flag{}; };
      index_t first = 0, last = tokens;
      while (first < last && !real(first)) ++first;
      while (last > first && !real(last - 1)) --last;
      for (index_t t = first; t < last; ++t)
        if (!real(t))
          fail({errc::bad_documents, "row " + std::to_string(b) + " of the padding mask has a hole at token " + std::to_string(t),
                "Padding must stand at the ends of a row; use documents for anything else"});
      list.push_back({b * tokens + first, last - first, last - first, b});
    }
    return {std::move(list), checked_mul(batch, tokens)};
  }

  /// From the position ids of a packed row, or of a batch row behind row. Inside a document they count 0, 1, 2, ...; -1 is padding,
  /// which belongs to no document. Several planes, (planes, tokens) row-major: three are multimodal rotary ids (time, height, width),
  /// where a document starts at the token whose three ids are 0 and text counts on by 1 in all of them; of four, text ids stand first
  /// and decide alone.
  template <class Id>
  constexpr static documents from_position_ids(std::span<Id const> ids, index_t planes = 1) {
    if ((planes != 1 && planes != 3 && planes != 4) || index_t(ids.size()) % planes != 0)
      fail({errc::bad_documents, std::to_string(ids.size()) + " position ids in " + std::to_string(planes) + " planes",
            "Give one plane, three of multimodal rotary ids (time, height, width), or text ids before these; all of equal "
            "length"});
    index_t const tokens = index_t(ids.size()) / planes;
    std::vector<document> list;
    bool inside = false; // the token before belongs to the last document
    for (index_t t = 0; t < tokens; ++t) {
      token_ids<Id> const now{ids, tokens, t, planes == 3 ? 3 : 1};
      if (now.all([](Id id) { return std::is_signed_v<Id> && id == Id(-1); })) {
        inside = false;
        continue;
      }
      bool const starts = now.all([](Id id) { return id == Id{}; });
      if (!starts && !(inside && now.continues(list.back().count)))
        fail({errc::bad_documents, "position id " + now.text() + " at token " + std::to_string(t) + " starts no document",
              "Ids must count 0, 1, 2, ... inside each document and be -1 in padding; where padding has other ids, use "
              "from_padding_mask"});
      if (starts) list.push_back({t, 0, 0, index_t(list.size())});
      ++list.back().count;
      ++list.back().room;
      inside = true;
    }
    return {std::move(list), tokens};
  }

  /// The index of the last document that begins at `position` or before it; 0 where none does.
  [[nodiscard]] constexpr std::size_t at_or_before(index_t position) const noexcept {
    std::size_t d = 0;
    for (std::size_t end = list_.size(); d + 1 < end;) {
      std::size_t middle = d + (end - d) / 2;
      (list_[middle].begin <= position ? d : end) = middle;
    }
    return d;
  }

  [[nodiscard]] constexpr std::size_t size() const noexcept { return list_.size(); }
  [[nodiscard]] constexpr document const& operator[](std::size_t d) const noexcept { return list_[d]; }
  constexpr auto begin() const noexcept { return list_.begin(); }
  constexpr auto end() const noexcept { return list_.end(); }
  /// Positions of the stream, slack included.
  [[nodiscard]] constexpr index_t length() const noexcept { return length_; }
  /// Tokens that belong to a document.
  [[nodiscard]] constexpr index_t tokens() const noexcept {
    index_t n = 0;
    for (document const& d : list_) n += d.count;
    return n;
  }

  /// The same documents, each with room for a multiple of `multiple` tokens, in a stream of their own (a new length, new begins).
  [[nodiscard]] constexpr documents padded(index_t multiple) const {
    if (multiple <= 0)
      fail({errc::bad_documents, "padding to a multiple of " + std::to_string(multiple), "Pad to a multiple of at least 1"});
    std::vector<document> list;
    index_t at = 0;
    for (document const& d : list_) {
      index_t room = checked_mul(ceil_div(d.count, multiple), multiple);
      list.push_back({at, d.count, room, d.id});
      at = checked_add(at, room);
    }
    return {std::move(list), at};
  }

  /// The caller's own names for the documents, used as keys of random numbers.
  [[nodiscard]] constexpr documents with_ids(std::span<index_t const> ids) const {
    if (ids.size() != list_.size())
      fail({errc::bad_documents, std::to_string(ids.size()) + " ids for " + std::to_string(list_.size()) + " documents",
            "Give one id per document"});
    documents r = *this;
    for (std::size_t d = 0; d < ids.size(); ++d) r.list_[d].id = ids[d];
    return r;
  }

  friend constexpr bool operator==(documents const&, documents const&) = default;

private:
  /// The ids of one token that count: one, or the three of multimodal rotary positions.
  template <class Id>
  struct token_ids {
    std::span<Id const> ids;
    index_t tokens, at;
    int count;

    constexpr Id operator[](int plane) const { return ids[std::size_t(plane * tokens + at)]; }
    template <class F>
    constexpr bool all(F&& f) const {
      for (int p = 0; p < count; ++p)
        if (!f((*this)[p])) return false;
      return true;
    }
    /// Whether the token may stand behind the one before it, the n-th of its document. Text has three equal ids, which count on; of
    /// images only the sign is sure, for models scale time in their own ways.
    constexpr bool continues(index_t n) const {
      if (count == 1) return index_t((*this)[0]) == n;
      token_ids before{ids, tokens, at - 1, count};
      auto text = [](token_ids const& x) { return x[0] == x[1] && x[1] == x[2]; };
      if (text(before) && text(*this)) return (*this)[0] > 0 && Id((*this)[0] - 1) == before[0];
      return all([](Id id) { return index_t(id) >= 0; });
    }
    std::string text() const {
      std::string s = std::to_string((*this)[0]);
      for (int p = 1; p < count; ++p) s += ", " + std::to_string((*this)[p]);
      return count == 1 ? s : "(" + s + ")";
    }
  };

  constexpr static void check_batch(index_t batch, index_t tokens) {
    if (batch < 0 || tokens < 0)
      fail({errc::bad_documents, "a batch of " + std::to_string(batch) + " rows of " + std::to_string(tokens) + " tokens",
            "Neither can be negative"});
  }

  std::vector<document> list_;
  index_t length_ = 0;
};

/// cu_seqlens written as a list: sp::packed{0, 4096, 6144, 16384}.
struct packed : documents {
  /// Offsets of any integer type: int32 is what most data loaders give.
  template <std::integral Offset>
  explicit constexpr packed(std::span<Offset const> cu_seqlens, index_t length = -1)
      : packed(std::span<index_t const>(std::vector<index_t>(cu_seqlens.begin(), cu_seqlens.end())), length) {}
  /// A list that was made for it: sp::packed{sp::read(queue, cu_seqlens)} of a tensor on a device waits for the queue.
  template <std::integral Offset>
  explicit constexpr packed(std::vector<Offset> const& cu_seqlens, index_t length = -1)
      : packed(std::span<Offset const>(cu_seqlens), length) {}

  constexpr packed(std::initializer_list<index_t> cu_seqlens)
      : documents(documents::packed(std::span(cu_seqlens.begin(), cu_seqlens.size()))) {}
  explicit constexpr packed(std::span<index_t const> cu_seqlens, index_t length = -1)
      : documents(documents::packed(cu_seqlens, length)) {}
};

} // namespace sp
