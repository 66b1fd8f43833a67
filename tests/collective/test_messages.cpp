// The messages of an exchange of contiguous blocks: what both ends make of the same parcels fits together, whatever they are cut into.
// A transport of a dozen lines moves them between ranks that are loops; bytes are compared with a plain copy of each parcel.
#include <doctest/doctest.h>

#include <cstring>
#include <deque>
#include <random>

#include <sp/collective/family/messages.hpp>

namespace test_messages {

using sp::index_t;
using sp::parcel;
using sp::piece;

/// Memory of one rank, and lists of rows that pieces name.
struct rank_memory {
  std::vector<std::byte> bytes = std::vector<std::byte>(1 << 16);
  std::size_t used = 0;
  std::deque<std::vector<sp::row_range>> rows;
  std::deque<std::vector<piece>> lists;
  std::vector<std::byte> room;

  /// `count` blocks of `row` bytes: side by side, apart, or named by a list.
  piece make(std::mt19937& random, index_t count, index_t row) {
    int const form = int(random() % 3);
    index_t const stride = form == 0 ? row : row + 8;
    piece p = sp::as_piece(sp::view<char, 2>(reinterpret_cast<char*>(bytes.data() + used), {count, row}, {stride, 1}));
    used += std::size_t(2 * count * stride);
    REQUIRE(used <= bytes.size());
    if (form == 2 && count > 1) {
      rows.push_back({{1, 2, count / 2}, {0, 2, count - count / 2}});
      p.rows = rows.back();
    }
    return p;
  }
};

/// `bytes` in pieces that `random` cuts.
std::span<piece const> cut(rank_memory& m, std::mt19937& random, index_t bytes) {
  m.lists.emplace_back();
  while (bytes > 0) {
    index_t const row = 1 + index_t(random() % 9),
                  count = std::max<index_t>(1, std::min<index_t>(bytes / row, 1 + index_t(random() % 5)));
    index_t const fits = std::min(row, bytes);
    m.lists.back().push_back(m.make(random, bytes < row ? 1 : count, fits));
    bytes -= m.lists.back().back().bytes();
  }
  if (random() % 2) m.lists.back().push_back(m.make(random, 0, 3)); // without bytes
  return m.lists.back();
}
/// The same cut with other strides.
std::span<piece const> cut_alike(rank_memory& m, std::mt19937& random, std::span<piece const> like) {
  m.lists.emplace_back();
  for (piece const& p : like) m.lists.back().push_back(m.make(random, p.extents[0], p.extents[1]));
  return m.lists.back();
}

std::vector<std::byte> contents(std::span<piece const> pieces) {
  std::vector<std::byte> out(std::size_t(sp::total_bytes(pieces)));
  piece const all = sp::detail::message_list::block_of(out.data(), index_t(out.size()));
  sp::copy({&all, 1}, pieces);
  return out;
}

/// Sends everything that the lists of all ranks hold; both ends of every pair must agree.
void transport(std::vector<sp::detail::message_list>& ranks, std::vector<rank_memory>& memory) {
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    memory[r].room.resize(std::size_t(ranks[r].room()));
    ranks[r].place(memory[r].room.data());
    if (!ranks[r].packs().to.empty()) sp::copy(ranks[r].packs().to, ranks[r].packs().from);
  }
  for (std::size_t from = 0; from < ranks.size(); ++from)
    for (std::size_t to = 0; to < ranks.size(); ++to) {
      std::vector<sp::detail::message_block> out, in;
      for (auto const& m : ranks[from].sends())
        if (m.block.peer == int(to)) out.push_back(m.block);
      for (auto const& m : ranks[to].receives())
        if (m.block.peer == int(from)) in.push_back(m.block);
      REQUIRE(out.size() == in.size());
      for (std::size_t i = 0; i < out.size(); ++i) {
        REQUIRE(out[i].bytes == in[i].bytes);
        CHECK(out[i].bytes > 0);
        std::memcpy(in[i].data, out[i].data, std::size_t(out[i].bytes));
      }
    }
  for (auto const& r : ranks)
    if (!r.unpacks().to.empty()) sp::copy(r.unpacks().to, r.unpacks().from);
}

struct rank_parcels {
  std::vector<parcel> sends, receives;
};

TEST_CASE("messages: what every pair sends is what the other expects, in one message a piece or one a parcel") {
  int packed = 0, plain = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    std::mt19937 random(seed);
    int const size = 1 + int(random() % 5);
    bool const alike = seed % 2;
    std::vector<rank_memory> memory(static_cast<std::size_t>(size));
    std::vector<rank_parcels> lists(static_cast<std::size_t>(size));
    for (int from = 0; from < size; ++from)
      for (int to = 0; to < size; ++to) {
        index_t const bytes = random() % 3 == 0 ? 0 : index_t(random() % 200);
        auto const out = cut(memory[std::size_t(from)], random, bytes);
        auto const in = alike ? cut_alike(memory[std::size_t(to)], random, out) : cut(memory[std::size_t(to)], random, bytes);
        lists[std::size_t(from)].sends.push_back({to, out});
        lists[std::size_t(to)].receives.push_back({from, in});
      }
    for (rank_memory& m : memory)
      for (std::byte& b : m.bytes) b = std::byte(random() % 256);
    std::vector<sp::detail::message_list> messages(static_cast<std::size_t>(size));
    for (int r = 0; r < size; ++r) {
      auto const& [sends, receives] = lists[std::size_t(r)];
      messages[std::size_t(r)].assign({"test", sends, receives, {.same_pieces = alike}}, r);
      for (auto const& m : messages[std::size_t(r)].sends()) (m.at < 0 ? plain : packed) += 1;
    }
    transport(messages, memory);
    for (int from = 0; from < size; ++from)
      for (int to = 0; to < size; ++to) {
        if (from == to) continue;
        parcel const& in = lists[std::size_t(to)].receives[std::size_t(from)];
        REQUIRE(in.peer == from);
        CHECK(contents(in.pieces) == contents(lists[std::size_t(from)].sends[std::size_t(to)].pieces));
      }
  }
  CHECK(packed > 100);
  CHECK(plain > 100);
}

TEST_CASE("messages: pieces that follow each other in memory are one block, and one that is in order needs no room") {
  std::vector<float> x(24);
  sp::view<float, 2> const v(x.data(), {6, 4});
  piece const both[] = {sp::as_piece(v.rows(0, 2)), sp::as_piece(v.rows(2, 4))};
  piece const apart[] = {sp::as_piece(v.rows(0, 2)), sp::as_piece(v.rows(3, 3))};
  parcel const one{1, both}, two{1, apart};
  sp::detail::message_list m;
  m.assign({"test", {&one, 1}, {}}, 0);
  CHECK(m.sends().size() == 1);
  CHECK(m.room() == 0);
  m.place(nullptr);
  CHECK(m.sends()[0].block.data == reinterpret_cast<std::byte*>(x.data()));
  CHECK(m.sends()[0].block.bytes == 96);
  m.assign({"test", {&two, 1}, {}}, 0);
  CHECK(m.sends().size() == 1);
  CHECK(m.room() == 128); // 80, to the next multiple of 64
  m.assign({"test", {&two, 1}, {}, {.same_pieces = true}}, 0);
  CHECK(m.sends().size() == 2);
  CHECK(m.room() == 0);
}

/// An all-gather in one call, or as messages where `equal` does not hold.
void gather(std::vector<sp::detail::message_list>& ranks, std::vector<rank_memory>& memory, bool equal) {
  if (!equal) return transport(ranks, memory);
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    memory[r].room.resize(std::size_t(ranks[r].room()));
    ranks[r].place(memory[r].room.data());
    if (!ranks[r].packs().to.empty()) sp::copy(ranks[r].packs().to, ranks[r].packs().from);
  }
  for (auto const& to : ranks)
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      auto const& g = ranks[r].gathered();
      REQUIRE(g.bytes == to.gathered().bytes);
      std::memmove(to.gathered().to + index_t(r) * g.bytes, g.from, std::size_t(g.bytes));
    }
  for (auto const& r : ranks)
    if (!r.unpacks().to.empty()) sp::copy(r.unpacks().to, r.unpacks().from);
}

TEST_CASE("messages: everybody's part comes to everybody, in one call if all parts are equal") {
  int calls = 0;
  for (unsigned seed = 0; seed < 40; ++seed) {
    std::mt19937 random(seed);
    int const size = 2 + int(random() % 4);
    bool const equal = seed % 2, own_in_place = random() % 2;
    std::vector<rank_memory> memory(static_cast<std::size_t>(size));
    std::vector<rank_parcels> lists(static_cast<std::size_t>(size));
    std::vector<index_t> bytes;
    for (int r = 0; r < size; ++r) bytes.push_back(equal && r ? bytes[0] : 1 + index_t(random() % 150));
    for (int r = 0; r < size; ++r) {
      auto& [sends, receives] = lists[std::size_t(r)];
      sends.push_back({r, cut(memory[std::size_t(r)], random, bytes[std::size_t(r)])});
      for (int from = 0; from < size; ++from)
        receives.push_back({from, from == r && own_in_place ? std::span<piece const>()
                                                            : cut(memory[std::size_t(r)], random, bytes[std::size_t(from)])});
    }
    for (rank_memory& m : memory)
      for (std::byte& b : m.bytes) b = std::byte(random() % 256);
    std::vector<sp::detail::message_list> messages(static_cast<std::size_t>(size));
    for (int r = 0; r < size; ++r) {
      sp::traffic const t{"test", lists[std::size_t(r)].sends, lists[std::size_t(r)].receives};
      bool const same = sp::detail::message_list::gathers_equal_blocks(t, r, size);
      CHECK((same == equal || size == 1));
      calls += same;
      same ? messages[std::size_t(r)].assign_equal_gather(t, r, size) : messages[std::size_t(r)].assign_gather(t, r, size);
    }
    gather(messages, memory, equal);
    for (int r = 0; r < size; ++r)
      for (int from = 0; from < size; ++from) {
        if (from == r) continue; // its own part is the group's affair, unless it is one call
        CHECK(contents(lists[std::size_t(r)].receives[std::size_t(from)].pieces) ==
              contents(lists[std::size_t(from)].sends[0].pieces));
      }
  }
  CHECK(calls >= 40);
}

TEST_CASE("messages: equal parts that lie in the order of ranks are gathered where they lie") {
  std::vector<float> x(32), mine(8);
  sp::view<float, 2> const v(x.data(), {16, 2}); // four ranks of four rows
  std::vector<piece> pieces;
  for (int r = 0; r < 4; ++r) pieces.push_back(sp::as_piece(v.rows(4 * r, 4)));
  auto blocks = [&](piece const& sent, bool own, int order = 0) {
    parcel const out{2, {&sent, 1}};
    std::vector<parcel> in;
    for (int r = 0; r < 4; ++r)
      in.push_back({r, {&pieces[std::size_t(r ^ order)], r == 2 && !own ? std::size_t(0) : std::size_t(1)}});
    sp::detail::message_list m;
    m.assign_equal_gather({"test", {&out, 1}, in}, 2, 4);
    index_t const room = m.room();
    std::vector<std::byte> memory(std::size_t(room) + 1);
    m.place(memory.data());
    return std::pair(room, m.gathered());
  };
  piece const apart = sp::as_piece(sp::view<float, 2>(mine.data(), {4, 2})), there = pieces[2];
  auto* const begin = reinterpret_cast<std::byte*>(x.data());
  CHECK(blocks(there, false).first == 0); // in place
  CHECK(blocks(there, false).second.to == begin);
  CHECK(blocks(there, false).second.from == begin + 64);
  CHECK(blocks(apart, true).first == 0); // to its place
  CHECK(blocks(apart, true).second.from == reinterpret_cast<std::byte*>(mine.data()));
  CHECK(blocks(apart, false).first == 128);   // block 2 of the tensor is somebody else's
  CHECK(blocks(apart, true, 1).first == 128); // not in the order of ranks
}

} // namespace test_messages
