// Who needs which rows of whom for a causal convolution: of each rank's rows those before them in their documents, as numbers of rows.
// Pure integers and no communication; both ends of a message find the same rows in the same order, for any sharding.
#pragma once

#include <sp/core/sort.hpp>
#include <sp/layout/route.hpp>

namespace sp::detail {

/// Rows row, row + 1, ... of a part hold the tokens at `positions`, all of one document, which begins at `start`.
struct conv1d_run {
  run positions;
  index_t start = 0, row = 0;
  std::size_t document = 0;
  int part = 0;
};

/// The tokens of all parts, slack left out, in the order in which their runs begin.
inline std::vector<conv1d_run> conv1d_runs(layout const& l) {
  std::vector<conv1d_run> all;
  documents const& docs = l.docs();
  for (int p = 0; p < l.parts(); ++p) {
    index_t row = 0;
    for (run const& r : l.runs(p)) {
      for_each_document(docs, r, [&](std::size_t d, interval) {
        interval const tokens = clip(r, docs[d].begin, docs[d].end());
        if (tokens.count > 0) all.push_back({r.sub(tokens.first, tokens.count), docs[d].begin, row + tokens.first, d, p});
      });
      row += r.count;
    }
  }
  detail::sort(all, [](conv1d_run const& a, conv1d_run const& b) { return a.positions.begin < b.positions.begin; });
  return all;
}

/// Who holds the token at a position that is one. Of runs that interleave, more than one begins before it.
inline owner owner_of(std::vector<conv1d_run> const& runs, index_t position) {
  std::size_t begin = 0, end = runs.size(); // the last run that begins at the position or before it is in [begin, end)
  while (begin + 1 < end) {
    std::size_t const middle = begin + (end - begin) / 2;
    (runs[middle].positions.begin <= position ? begin : end) = middle;
  }
  while (!runs[begin].positions.contains(position)) --begin;
  conv1d_run const& r = runs[begin];
  return {r.part, r.row + (position - r.positions.begin) / r.positions.stride};
}

/// Up to `reach` positions in front of each row of `part`, those before it in its own run of neighbours left out: in stream order, once
/// each, within documents.
inline std::vector<index_t> positions_before(std::vector<conv1d_run> const& runs, int part, index_t reach) {
  std::vector<index_t> all;
  auto add = [&](index_t start, index_t position) {
    for (index_t p = max(start, position - reach); p < position; ++p) all.push_back(p);
  };
  for (conv1d_run const& r : runs) {
    if (r.part != part) continue;
    index_t const heads = r.positions.stride == 1 ? min(1, r.positions.count) : r.positions.count;
    for (index_t i = 0; i < heads; ++i) add(r.start, r.positions.at(i));
  }
  detail::sort(all, [](index_t a, index_t b) { return a < b; });
  std::size_t kept = 0;
  for (index_t p : all)
    if (kept == 0 || all[kept - 1] != p) all[kept++] = p;
  all.resize(kept);
  return all;
}

/// A place that a row has in a list of positions.
inline std::size_t place_of(std::vector<index_t> const& sorted, index_t position) {
  std::size_t begin = 0, end = sorted.size();
  while (begin + 1 < end) {
    std::size_t const middle = begin + (end - begin) / 2;
    (sorted[middle] <= position ? begin : end) = middle;
  }
  return begin;
}

/// The rows of a convolution of `width` taps seen from one part. Rows have one numbering: [0, rows) are this part's own; behind them
/// come the halo, rows of others in stream order; then width - 1 rows of state for each document.
struct conv1d_rows {
  static constexpr index_t nothing = -1;

  index_t width = 1, rows = 0, halo = 0, documents = 0;
  index_t rows_sent = 0;        ///< own rows that others have as halo, each counted for each of them
  route to_readers{}, to_all{}; ///< rows to those who have them as halo; the last width - 1 tokens of every document to everybody
  std::vector<index_t> sources{}; ///< (rows, width): what tap j of a row reads; nothing in rows of slack
  std::vector<index_t> users{};   ///< (rows + halo + states, width): which own row reads it with tap width - 1 - k
  std::vector<index_t> lengths{}; ///< (documents)

  [[nodiscard]] index_t reach() const noexcept { return width - 1; }
  [[nodiscard]] index_t states() const noexcept { return documents * reach(); }
  [[nodiscard]] index_t everything() const noexcept { return rows + halo + states(); }

  static conv1d_rows of(layout const& l, int part, index_t width) {
    conv1d_rows r;
    r.width = width, r.rows = l.tokens(part), r.documents = index_t(l.docs().size());
    for (document const& d : l.docs()) r.lengths.push_back(d.count);
    auto const runs = conv1d_runs(l);
    auto const before = positions_before(runs, part, r.reach());
    std::vector<index_t> number(before.size()); // of the row that holds it
    std::vector<std::vector<index_t>> arrive(std::size_t(l.parts())), leave(std::size_t(l.parts()));
    for (std::size_t i = 0; i < before.size(); ++i) {
      owner const o = owner_of(runs, before[i]);
      number[i] = o.part == part ? o.row : r.rows + r.halo;
      if (o.part != part) arrive[std::size_t(o.part)].push_back(r.halo++);
    }
    for (int p = 0; p < l.parts(); ++p)
      if (p != part)
        for (index_t position : positions_before(runs, p, r.reach()))
          if (owner const o = owner_of(runs, position); o.part == part) leave[std::size_t(p)].push_back(o.row), ++r.rows_sent;
    r.to_readers = route_of(part, l.parts(), r.rows, r.halo, leave, arrive);
    r.to_all = route_of_ends(l, runs, part, r.reach());
    r.list_sources(runs, part, before, number);
    r.list_users();
    return r;
  }

private:
  using lists = std::vector<std::vector<index_t>>;
  static route route_of(int part, int parts, index_t from, index_t to, lists const& leave, lists const& arrive) {
    auto of = [](lists const& all) {
      return [&](int p, auto&& add) {
        for (index_t row : all[std::size_t(p)]) add(row, 1, 1);
      };
    };
    return route::of_rows(part, parts, from, to, of(leave), of(arrive));
  }
  /// Row d reach + k is the k-th of the last `reach` tokens of document d, where it has so many.
  static route route_of_ends(layout const& l, std::vector<conv1d_run> const& runs, int part, index_t reach) {
    lists leave(std::size_t(l.parts())), arrive(leave);
    index_t row = 0;
    for (document const& d : l.docs())
      for (index_t position = d.end() - reach; position < d.end(); ++position, ++row) {
        if (position < d.begin) continue;
        owner const o = owner_of(runs, position);
        arrive[std::size_t(o.part)].push_back(row);
        if (o.part == part)
          for (auto& list : leave) list.push_back(o.row);
      }
    return route_of(part, l.parts(), l.tokens(part), row, leave, arrive);
  }

  void list_sources(std::vector<conv1d_run> const& runs, int part, std::vector<index_t> const& before,
                    std::vector<index_t> const& number) {
    sources.assign(std::size_t(checked_mul(rows, width)), index_t{nothing});
    for (conv1d_run const& r : runs) {
      if (r.part != part) continue;
      for (index_t i = 0; i < r.positions.count; ++i)
        for (index_t k = 0; k < width; ++k) {
          index_t const position = r.positions.at(i) - k;
          index_t& source = sources[std::size_t((r.row + i) * width + width - 1 - k)];
          if (position < r.start)
            source = rows + halo + index_t(r.document) * reach() + reach() - (r.start - position);
          else if (k == 0 || (r.positions.stride == 1 && k <= i))
            source = r.row + i - k;
          else
            source = number[place_of(before, position)];
        }
    }
  }
  void list_users() {
    users.assign(std::size_t(checked_mul(everything(), width)), index_t{nothing});
    for (index_t row = 0; row < rows; ++row)
      for (index_t tap = 0; tap < width; ++tap)
        if (index_t const s = sources[std::size_t(row * width + tap)]; s != nothing)
          users[std::size_t(s * width + width - 1 - tap)] = row;
  }
};

} // namespace sp::detail
