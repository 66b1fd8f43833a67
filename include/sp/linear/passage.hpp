// The way of a state through a document's segments, seen from one rank: what it computes, what it sends, what it joins to what arrives.
// Forwards for states, backwards for their gradients; integers only, and both ends of every message list the same rows in the same order.
#pragma once

#include <sp/layout/route.hpp>
#include <sp/linear/segments.hpp>

namespace sp::detail {

/// Where a state stands while it passes.
struct state_place {
  enum kind {
    nowhere,
    outer,   ///< before the first segment or behind the last one of the passage: given to the call, or asked for
    held,    ///< a slot for what enters a segment
    sent,    ///< a slot that others are sent
    passed,  ///< a slot for what leaves a segment, to be joined to the maps of others
    arrived, ///< a slot of what others sent
  };
  kind of = nowhere;
  index_t slot = 0;
};

/// A rank's part of the passage. Segments of a document that follow each other on one rank are a chain: the state goes through it as it
/// is. The first chain sends the state that leaves it; one in the middle a map for each segment, M and B; the last one nothing.
struct linear_passage {
  /// The state goes through an own segment.
  struct visit {
    std::size_t segment = 0; ///< among the own ones
    state_place in{}, out{};
    /// It begins the document and is sent on: what leaves it can be had from its map.
    [[nodiscard]] bool first() const noexcept { return in.of == state_place::outer && out.of == state_place::sent; }
    /// The same, once others have been sent what leaves it, and may be reading that.
    [[nodiscard]] visit ending_here() const noexcept { return {segment, in, {}}; }
  };
  /// The state goes through somebody else's segment: to = M from + B; without M, to = B.
  struct join {
    state_place from{}, to{};
    index_t arrived = 0, map = -1;
  };
  /// An own segment in the middle, of which others get the map.
  struct reduced {
    std::size_t segment = 0;
    index_t sent = 0, map = 0;
  };
  struct action {
    bool visits = true;
    std::size_t index = 0; ///< of visits or joins
  };

  std::vector<visit> visits{};
  std::vector<join> joins{};
  std::vector<reduced> maps{};
  std::vector<std::size_t> early{}, local{}; ///< visits that others wait for; those that wait for nobody and nobody waits for
  std::vector<action> late{};                ///< in order; behind what arrives
  route states{}, to_joins{};                ///< B, or states; M
  index_t held = 0, sent = 0, passed = 0, arrived = 0, own_maps = 0, arrived_maps = 0; ///< slots
  index_t all_states = 0, all_maps = 0; ///< sent by all ranks, counted for each reader

  /// map_slots: of own segments, written forwards and read backwards.
  static linear_passage of(linear_segments const& all, std::vector<std::size_t> const& own, int part, int parts, bool backwards,
                           std::vector<index_t>& map_slots) {
    linear_passage p;
    builder b{p, all, own, part, parts, backwards, map_slots};
    for (std::size_t d = 0; d + 1 < all.first.size(); ++d) b.document(d);
    b.make_routes();
    return p;
  }

private:
  struct builder {
    linear_passage& p;
    linear_segments const& all;
    std::vector<std::size_t> const& own; ///< number among the own segments, for each of all
    int part, parts;
    bool backwards;
    std::vector<index_t>& map_slots;
    using lists = std::vector<std::vector<index_t>>;
    lists states_leave{}, states_arrive{}, maps_leave{}, maps_arrive{}; ///< slots, for each part
    std::vector<index_t> last{}; ///< chain of the document at hand, for each part; -1: none

    /// Segments [begin, end) of the order of the passage, all of one part.
    struct chain {
      std::size_t begin = 0, end = 0;
      int part = 0;
    };

    void document(std::size_t d) {
      std::size_t const n = all.first[d + 1] - all.first[d];
      auto at = [&](std::size_t i) { return backwards ? all.first[d + 1] - 1 - i : all.first[d] + i; };
      std::vector<chain> chains;
      for (std::size_t i = 0; i < n; ++i) {
        int const owner = all.all[at(i)].part;
        if (chains.empty() || chains.back().part != owner) chains.push_back({i, i, owner});
        chains.back().end = i + 1;
      }
      last.assign(std::size_t(parts), -1);
      for (std::size_t c = 0; c < chains.size(); ++c) last[std::size_t(chains[c].part)] = index_t(c);
      index_t const mine = last[std::size_t(part)];
      state_place current;
      for (std::size_t c = 0; c < chains.size(); ++c) {
        bool const middle = c > 0 && c + 1 < chains.size();
        if (chains[c].part == part)
          own_chain(chains, c, index_t(c) < mine, at, current);
        else if (index_t(c) < mine)
          chain_of_others(chains, c, current);
        if (c + 1 < chains.size()) count_rows(chains, c, middle ? index_t(chains[c].end - chains[c].begin) : 0);
      }
    }

    /// Readers of chain c: f(part) for each that owns a later one, once.
    template <class F>
    void each_reader(std::vector<chain> const& chains, std::size_t c, F&& f) const {
      for (int q = 0; q < parts; ++q)
        if (q != chains[c].part && last[std::size_t(q)] > index_t(c)) f(q);
    }
    void count_rows(std::vector<chain> const& chains, std::size_t c, index_t rows) {
      index_t readers = 0;
      each_reader(chains, c, [&](int) { ++readers; });
      p.all_states += readers * max(rows, 1), p.all_maps += readers * rows;
    }

    template <class At>
    void own_chain(std::vector<chain> const& chains, std::size_t c, bool again, At const& at, state_place& current) {
      chain const& x = chains[c];
      bool const begins = c == 0, ends = c + 1 == chains.size();
      state_place in = begins ? state_place{state_place::outer} : current;
      for (std::size_t i = x.begin; i < x.end; ++i) {
        std::size_t const segment = own[at(i)];
        if (!begins && !ends) send_map(chains, c, segment);
        state_place out;
        if (i + 1 < x.end)
          out = {state_place::held, p.held++};
        else if (ends)
          out = {state_place::outer};
        else if (begins)
          out = {state_place::sent, send_state(chains, c)};
        else if (again)
          out = {state_place::passed, p.passed++};
        if (begins && !ends)
          p.early.push_back(p.visits.size());
        else if (begins)
          p.local.push_back(p.visits.size());
        else
          p.late.push_back({true, p.visits.size()});
        p.visits.push_back({segment, in, out});
        in = out;
      }
      current = in;
    }
    index_t send_state(std::vector<chain> const& chains, std::size_t c) {
      index_t const slot = p.sent++;
      each_reader(chains, c, [&](int reader) { states_leave[std::size_t(reader)].push_back(slot); });
      return slot;
    }
    void send_map(std::vector<chain> const& chains, std::size_t c, std::size_t segment) {
      if (!backwards) map_slots[segment] = p.own_maps;
      index_t const map = map_slots[segment], slot = send_state(chains, c);
      each_reader(chains, c, [&](int reader) { maps_leave[std::size_t(reader)].push_back(map); });
      p.maps.push_back({segment, slot, map});
      ++p.own_maps;
    }
    /// What arrives is joined where it stands; what enters an own segment goes into a slot that is held.
    void chain_of_others(std::vector<chain> const& chains, std::size_t c, state_place& current) {
      chain const& x = chains[c];
      bool const begins = c == 0, enters = chains[c + 1].part == part;
      index_t const rows = begins ? 1 : index_t(x.end - x.begin);
      for (index_t i = 0; i < rows; ++i) {
        index_t const slot = p.arrived++, map = begins ? -1 : p.arrived_maps++;
        states_arrive[std::size_t(x.part)].push_back(slot);
        if (!begins) maps_arrive[std::size_t(x.part)].push_back(map);
        bool const into = enters && i + 1 == rows;
        state_place const to = into ? state_place{state_place::held, p.held++} : state_place{state_place::arrived, slot};
        if (into || !begins) {
          p.late.push_back({false, p.joins.size()});
          p.joins.push_back({current, to, slot, map});
        }
        current = to;
      }
    }

    void make_routes() {
      p.states = route_of(p.sent, p.arrived, states_leave, states_arrive);
      p.to_joins = route_of(p.own_maps, p.arrived_maps, maps_leave, maps_arrive);
    }
    route route_of(index_t from, index_t to, lists const& leave, lists const& arrive) const {
      auto rows = [](lists const& of) {
        return [&](int q, auto&& add) {
          for (index_t slot : of[std::size_t(q)]) add(slot, 1, 1);
        };
      };
      return route::of_rows(part, parts, from, to, rows(leave), rows(arrive));
    }

    builder(linear_passage& to, linear_segments const& segments, std::vector<std::size_t> const& numbers, int me, int size,
            bool back, std::vector<index_t>& slots)
        : p(to), all(segments), own(numbers), part(me), parts(size), backwards(back), map_slots(slots),
          states_leave(std::size_t(size)), states_arrive(states_leave), maps_leave(states_leave), maps_arrive(states_leave) {}
  };
};

} // namespace sp::detail
