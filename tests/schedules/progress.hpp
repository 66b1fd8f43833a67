// What must hold for the events of all ranks: sends and receives pair up, and every rank comes to its end without any buffer on the way.
// Each check returns what is wrong as a sentence, empty if nothing is.
#pragma once

#include <set>

#include "schedules/record.hpp"

namespace schedules {

using program = std::vector<std::vector<event>>; ///< events of every rank, in order

inline std::string name(int rank, event const& e) {
  return "rank " + std::to_string(rank) + ", " + std::string(e.primitive) + ", exchange " + std::to_string(e.number) +
         " of group " + std::to_string(e.group);
}

/// Every send has exactly one receive of the same bytes in the same exchange of the same primitive, and the other way round.
inline std::string unmatched(program const& all) {
  using line = std::tuple<int, int, int, int, index_t, std::string_view>; // group, number, from, to, bytes, primitive
  std::multiset<line> sends, receives;
  for (int r = 0; r < int(all.size()); ++r)
    for (event const& e : all[std::size_t(r)]) {
      for (message const& m : e.sends) sends.insert({e.group, e.number, r, m.peer, m.bytes, e.primitive});
      for (message const& m : e.receives) receives.insert({e.group, e.number, m.peer, r, m.bytes, e.primitive});
    }
  auto describe = [](line const& l, char const* what) {
    auto const& [group, number, from, to, n, primitive] = l;
    return std::string(primitive) + ", exchange " + std::to_string(number) + " of group " + std::to_string(group) + ": " + what +
           " of " + std::to_string(n) + " bytes from rank " + std::to_string(from) + " to rank " + std::to_string(to) +
           " is alone";
  };
  for (line const& l : sends)
    if (sends.count(l) != 1 || receives.count(l) != 1) return describe(l, "the send");
  for (line const& l : receives)
    if (sends.count(l) != 1 || receives.count(l) != 1) return describe(l, "the receive");
  return {};
}

/// All members of a group do the same things in the same order.
inline std::string disorder(program const& all) {
  using steps = std::vector<std::tuple<event::operation, int, std::string_view>>;
  std::map<int, std::pair<int, steps>> first; // by group: who was asked first, and what he did
  for (int r = 0; r < int(all.size()); ++r) {
    std::map<int, steps> mine;
    for (event const& e : all[std::size_t(r)]) mine[e.group].push_back({e.kind, e.number, e.primitive});
    for (auto& [group, list] : mine) {
      auto const& [who, expected] = first.try_emplace(group, r, list).first->second;
      if (list != expected)
        return "in group " + std::to_string(group) + " rank " + std::to_string(r) + " does other things than rank " +
               std::to_string(who);
    }
  }
  return {};
}

enum class channel {
  posted, ///< a rank goes on after posting and stops in wait() until each peer has posted its half
  strict, ///< a rank stops in the post itself until each peer is in the same exchange: nothing is ever in flight behind its back
};

/// Runs all ranks as far as they come over channels that hold nothing. A rank that has come somewhere stays there until those it meets
/// have come too, so what a rank can do never stops being possible and one order of the ranks stands for all.
inline std::string deadlock(program const& all, channel how) {
  using meeting = std::tuple<event::operation, int, int>; // what, group, number
  std::vector<std::size_t> at(all.size());
  std::vector<std::set<meeting>> come(all.size());
  std::map<int, std::set<int>> members;
  for (int r = 0; r < int(all.size()); ++r)
    for (event const& e : all[std::size_t(r)]) members[e.group].insert(r);

  auto met = [&](int rank, event const& post) { // have all peers of this exchange come to it?
    for (auto const* list : {&post.sends, &post.receives})
      for (message const& m : *list)
        if (m.peer != rank && !come[std::size_t(m.peer)].contains({event::post, post.group, post.number})) return false;
    return true;
  };
  auto post_of = [&](int rank, event const& wait) -> event const& {
    for (event const& e : all[std::size_t(rank)])
      if (e.kind == event::post && e.group == wait.group && e.number == wait.number) return e;
    return wait; // never posted: nothing to meet
  };
  bool moved = true;
  auto passes = [&](int rank, event const& e) {
    if (e.kind == event::wait) return met(rank, post_of(rank, e));
    moved |= come[std::size_t(rank)].insert({e.kind, e.group, e.number}).second;
    if (e.kind == event::post) return how == channel::posted || met(rank, e);
    // publish and release are barriers of the group
    for (int m : members[e.group])
      if (!come[std::size_t(m)].contains({e.kind, e.group, e.number})) return false;
    return true;
  };
  while (moved) {
    moved = false;
    for (int r = 0; r < int(all.size()); ++r)
      while (at[std::size_t(r)] < all[std::size_t(r)].size() && passes(r, all[std::size_t(r)][at[std::size_t(r)]]))
        ++at[std::size_t(r)], moved = true;
  }
  for (int r = 0; r < int(all.size()); ++r)
    if (at[std::size_t(r)] < all[std::size_t(r)].size())
      return name(r, all[std::size_t(r)][at[std::size_t(r)]]) + ": waits for ever";
  return {};
}

/// The most exchanges that one rank has open at a time.
inline int most_open(program const& all) {
  int most = 0;
  for (auto const& events : all) {
    int open = 0;
    for (event const& e : events) {
      open += e.kind == event::post ? 1 : e.kind == event::wait ? -1 : 0;
      most = std::max(most, open);
    }
  }
  return most;
}

/// How often a rank entered an exchange of this name.
inline int exchanges(std::vector<event> const& events, std::string_view primitive) {
  int n = 0;
  for (event const& e : events) n += e.kind == event::post && e.primitive == primitive;
  return n;
}

} // namespace schedules
