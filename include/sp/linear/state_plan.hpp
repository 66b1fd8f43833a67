// What linear attention by state asks of one rank for one batch: its segments, the passage both ways, and who ends documents.
// Integers, and tables of sums for queues of other memory than the host's.
#pragma once

#include <sp/layout/batch.hpp>
#include <sp/layout/landing_table.hpp>
#include <sp/linear/passage.hpp>

namespace sp::detail {

template <class M>
struct linear_state_plan {
  struct own_segment {
    index_t document = 0, row = 0, count = 0;
    std::size_t visit = 0; ///< of the passage forwards
  };
  struct rows {
    index_t first = 0, count = 0;
  };
  int striped = -1;                 ///< a rank whose runs have a stride: then there is nothing else
  std::vector<own_segment> own{};   ///< of this rank, in the order of the stream
  std::vector<rows> slack{};        ///< rows without a token
  std::vector<index_t> empty{};     ///< documents without a token
  linear_passage there{}, back{};   ///< of states; of their gradients
  route ends{}, from_ends{};        ///< from slots of states that leave documents to everybody, and back
  landing_table<M> sums_of_ends{};  ///< of the way back
  std::vector<index_t> end_slots{}; ///< (documents): -1 where somebody else has the last segment
  index_t own_ends = 0, tokens = 0;

  [[nodiscard]] index_t documents() const noexcept { return index_t(end_slots.size()); }
  /// Refuses what has no maps.
  void require_runs() const {
    if (striped >= 0)
      fail({errc::unsupported,
            "rank " + std::to_string(striped) +
                " owns runs with a stride, and tokens that take turns between ranks have no map of the state",
            "Use linear_strategy::heads, or a sharding into runs of consecutive tokens: contiguous or zigzag"});
  }

  template <class Queue>
  void assign(context<Queue> const& ctx, batch const& b) {
    *this = {};
    auto const all = linear_segments::of(b.layout());
    striped = all.striped, tokens = b.tokens();
    end_slots.assign(b.docs().size(), -1);
    if (striped >= 0) return;
    std::vector<std::size_t> numbers(all.all.size());
    for (std::size_t i = 0; i < numbers.size(); ++i)
      if (linear_segment const& s = all.all[i]; s.part == b.part()) {
        numbers[i] = own.size();
        own.push_back({index_t(s.document), s.row, s.count});
      }
    std::vector<index_t> map_slots(own.size(), -1);
    there = linear_passage::of(all, numbers, b.part(), b.parts(), false, map_slots);
    back = linear_passage::of(all, numbers, b.part(), b.parts(), true, map_slots);
    for (std::size_t v = 0; v < there.visits.size(); ++v) own[there.visits[v].segment].visit = v;
    find_ends(all, b.part(), b.parts());
    from_ends = ends.transposed();
    sums_of_ends.assign(ctx, from_ends);
    find_slack();
  }

private:
  void find_ends(linear_segments const& all, int part, int parts) {
    std::vector<int> owners(end_slots.size(), -1);
    for (std::size_t d = 0; d < owners.size(); ++d) {
      auto const list = all.document(d);
      if (list.empty())
        empty.push_back(index_t(d));
      else
        owners[d] = list.back().part;
      if (owners[d] == part) end_slots[d] = own_ends++;
    }
    auto leave = [&](int, auto&& add) { add(0, 1, own_ends); };
    auto arrive = [&](int p, auto&& add) {
      for (std::size_t d = 0; d < owners.size(); ++d)
        if (owners[d] == p) add(index_t(d), 1, 1);
    };
    ends = route::of_rows(part, parts, own_ends, documents(), leave, arrive);
  }
  void find_slack() {
    std::vector<rows> taken;
    for (own_segment const& s : own) taken.push_back({s.row, s.count});
    detail::sort(taken, [](rows const& a, rows const& b) { return a.first < b.first; });
    index_t next = 0;
    for (rows const& r : taken) {
      if (r.first > next) slack.push_back({next, r.first - next});
      next = r.first + r.count;
    }
    if (next < tokens) slack.push_back({next, tokens - next});
  }
};

} // namespace sp::detail
