// A layout: documents and everybody's runs. From it follow, for every rank and without communication, owners, counts and exchanges.
// The runs of all parts are a partition of the documents' rooms: each token has exactly one owner.
#pragma once

#include <string>

#include <sp/geometry/block.hpp>
#include <sp/sharding/concepts.hpp>

namespace sp {

/// Who owns a position, and where it stands there. part -1: nobody (a gap between documents).
struct owner {
  int part = -1;
  index_t row = -1;
  friend constexpr bool operator==(owner const&, owner const&) = default;
};

namespace detail {

/// Calls f(document index, rows of r) for every document whose room the run meets, in stream order.
template <class F>
constexpr void for_each_document(documents const& docs, run const& r, F&& f) {
  for (std::size_t d = docs.at_or_before(r.begin); d < docs.size() && docs[d].begin < r.end(); ++d)
    if (interval in = clip(r, docs[d].begin, docs[d].begin + docs[d].room); in.count) f(d, in);
}

/// Runs over [0, n) of the documents' tokens one behind the other, as positions of the stream.
constexpr void to_stream(documents const& docs, std::vector<run> const& dense, std::vector<run>& out) {
  for (run const& r : dense) {
    index_t before = 0; // tokens of the documents passed
    for (document const& d : docs) {
      interval i = clip(r, before, before + d.room);
      if (i.count) {
        run piece = r.sub(i.first, i.count);
        piece.begin += d.begin - before;
        append(out, piece);
      }
      before += d.room;
    }
  }
}

inline std::string describe(run const& r) {
  return "run {" + std::to_string(r.begin) + ", " + std::to_string(r.count) + ", " + std::to_string(r.stride) + "}";
}
/// Whether a run stays in [0, n), found before anything adds its numbers up.
inline bool stays_inside(run const& r, index_t n) {
  if (r.count < 0 || r.stride < 1) return false;
  return r.count == 0 || (r.begin >= 0 && r.begin < n && r.count <= (n - 1 - r.begin) / r.stride + 1);
}

/// refuse(position, part, part) for a position that is in two of the runs. Many runs that lie apart cost little.
template <class Refuse>
void refuse_shared(std::vector<std::vector<run>> const& parts, Refuse const& refuse) {
  struct owned_run {
    run positions;
    std::size_t part;
  };
  std::vector<owned_run> all, open; // open: those that reach to the run at hand
  for (std::size_t p = 0; p < parts.size(); ++p)
    for (run const& r : parts[p])
      if (r.count > 0) all.push_back({r, p});
  detail::sort(all, [](owned_run const& a, owned_run const& b) { return a.positions.begin < b.positions.begin; });
  for (owned_run const& r : all) {
    std::erase_if(open, [&](owned_run const& o) { return o.positions.end() <= r.positions.begin; });
    for (owned_run const& o : open)
      if (run_overlap const both = intersect(r.positions, o.positions); both.count > 0) refuse(both.begin, o.part, r.part);
    open.push_back(r);
  }
}

inline void refuse_non_partition(std::vector<std::vector<run>> const& parts, index_t n) {
  index_t total = 0;
  for (auto const& p : parts)
    for (run const& r : p) {
      if (!stays_inside(r, n))
        fail({errc::uneven_partition, "the sharding gives a " + describe(r) + " outside [0, " + std::to_string(n) + ")",
              "runs(n, part, parts) must stay inside [0, n)"});
      total = checked_add(total, r.count);
    }
  refuse_shared(parts, [n](index_t token, std::size_t, std::size_t) {
    fail({errc::uneven_partition,
          "the sharding gives token " + std::to_string(token) + " of " + std::to_string(n) + " to two ranks",
          "The runs of all parts must be disjoint"});
  });
  if (total != n)
    fail({errc::uneven_partition, "the sharding gives away " + std::to_string(total) + " of " + std::to_string(n) + " tokens",
          "The runs of all parts together must cover every token"});
}

/// Runs that are given part by part, for documents with gaps: each position of a room once, and nothing else.
inline void refuse_non_partition(std::vector<std::vector<run>> const& parts, documents const& docs) {
  index_t total = 0, room = 0;
  for (std::size_t p = 0; p < parts.size(); ++p)
    for (run const& r : parts[p]) {
      index_t in_rooms = 0;
      if (stays_inside(r, docs.length())) for_each_document(docs, r, [&](std::size_t, interval in) { in_rooms += in.count; });
      if (in_rooms != r.count || r.stride < 1)
        fail({errc::uneven_partition, "part " + std::to_string(p) + " is given a " + describe(r) + " that leaves the documents",
              "Give runs {begin, count, stride} of positions in the documents' rooms, with a stride of at least 1"});
      total = checked_add(total, r.count);
    }
  refuse_shared(parts, [](index_t position, std::size_t one, std::size_t other) {
    fail({errc::uneven_partition,
          "position " + std::to_string(position) + " is in a run of part " + std::to_string(one) + " and in one of part " +
              std::to_string(other),
          "Give each position once"});
  });
  for (document const& d : docs) room = checked_add(room, d.room);
  if (total != room)
    fail({errc::uneven_partition, "the runs hold " + std::to_string(total) + " of " + std::to_string(room) + " positions",
          "The runs of all parts together must hold every position of the documents' rooms"});
}

} // namespace detail

/// Who owns which positions of a list of documents: the runs of every part, and what follows from them.
class layout {
public:
  layout() = default;

  /// Cuts `docs` over `parts` ranks.
  template <sharding S>
  layout(documents docs, S const& how, int parts) : docs_(std::move(docs)) {
    if (parts < 1) fail({errc::invalid_shape, std::to_string(parts) + " ranks", "Give at least one rank"});
    std::vector<std::vector<run>> all(static_cast<std::size_t>(parts));
    auto cut_one = [&](index_t n) {
      std::vector<std::vector<run>> runs;
      for (int p = 0; p < parts; ++p) runs.push_back(how.runs(n, p, parts));
      if constexpr (!requires { requires S::is_partition; }) detail::refuse_non_partition(runs, n);
      return runs;
    };
    if (how.over == scope::document) {
      for (document const& d : docs_) {
        auto runs = cut_one(d.room);
        for (std::size_t p = 0; p < all.size(); ++p)
          for (run r : runs[p]) {
            r.begin += d.begin;
            append(all[p], r);
          }
      }
    } else {
      index_t n = 0;
      for (document const& d : docs_) {
        if constexpr (requires { how.check_document(d.room); }) how.check_document(d.room);
        n = checked_add(n, d.room);
      }
      auto runs = cut_one(n);
      for (std::size_t p = 0; p < all.size(); ++p) detail::to_stream(docs_, runs[p], all[p]);
    }
    take(std::move(all));
  }

  /// From the runs of every part themselves, each part's in the order of its local rows, which need not be that of positions: rows that
  /// belong together can stand together. uneven_partition unless each position of the documents' rooms is in exactly one run.
  layout(documents docs, std::vector<std::vector<run>> const& runs_of_parts) : docs_(std::move(docs)) {
    if (runs_of_parts.empty()) fail({errc::invalid_shape, "runs of 0 ranks", "Give the runs of at least one rank"});
    detail::refuse_non_partition(runs_of_parts, docs_);
    std::vector<std::vector<run>> all(runs_of_parts.size());
    for (std::size_t p = 0; p < all.size(); ++p)
      for (run const& r : runs_of_parts[p]) append(all[p], r);
    take(std::move(all));
  }

  [[nodiscard]] int parts() const noexcept { return int(first_.size()) - 1; }
  [[nodiscard]] documents const& docs() const noexcept { return docs_; }
  [[nodiscard]] std::span<run const> runs(int part) const noexcept {
    auto p = static_cast<std::size_t>(part);
    return {runs_.data() + first_[p], first_[p + 1] - first_[p]};
  }
  [[nodiscard]] index_t tokens(int part) const noexcept { return tokens_[static_cast<std::size_t>(part)]; }

  /// The owner of a stream position; {-1, -1} for a position in a gap.
  [[nodiscard]] owner owner_of(index_t position) const {
    for (int p = 0; p < parts(); ++p) {
      index_t row = 0;
      for (run const& r : runs(p)) {
        if (r.contains(position)) return {p, row + (position - r.begin) / r.stride};
        row += r.count;
      }
    }
    return {};
  }

  /// The coarser layout of groups of `size` parts whose members stand `stride` parts apart: a group owns its members' tokens in
  /// stream order. Group g of the result holds parts first_member(g, size, stride) + i * stride.
  [[nodiscard]] layout grouped(int size, int stride) const {
    layout out;
    out.docs_ = docs_;
    std::vector<std::vector<run>> all;
    for (int g = 0; g < parts() / size; ++g) {
      std::vector<std::vector<run>> by_document(docs_.size()); // gaps between documents must not hide that a document is whole
      for (int i = 0; i < size; ++i)
        for (run const& r : runs(first_member(g, size, stride) + i * stride))
          detail::for_each_document(docs_, r,
                                    [&](std::size_t d, interval in) { by_document[d].push_back(r.sub(in.first, in.count)); });
      std::vector<run> merged;
      for (auto& pieces : by_document)
        for (run const& r : in_stream_order(std::move(pieces))) append(merged, r);
      all.push_back(std::move(merged));
    }
    out.take(std::move(all));
    return out;
  }
  static constexpr int first_member(int group, int size, int stride) { return group / stride * stride * size + group % stride; }
  static constexpr int group_of(int part, int size, int stride) { return part / (stride * size) * stride + part % stride; }

private:
  void take(std::vector<std::vector<run>> all) {
    runs_.clear();
    first_ = {0};
    tokens_.clear();
    for (auto& p : all) {
      for (run const& r : p) runs_.push_back(r);
      first_.push_back(runs_.size());
      tokens_.push_back(count_of(p));
    }
  }

  documents docs_;
  std::vector<run> runs_;
  std::vector<std::size_t> first_{0};
  std::vector<index_t> tokens_;
};

/// Everybody's rows as one table in document order, the rows of part p in tensor p: what a kernel that sees all keys works on.
template <class List = std::vector<placed_run>>
[[nodiscard]] List table_of(layout const& l) {
  static_assert(detail::require_list<List, placed_run>());
  List out;
  for (int p = 0; p < l.parts(); ++p)
    for (placed_run const& r : place(l.runs(p), p)) out.push_back(r);
  detail::sort(out, [](placed_run const& a, placed_run const& b) { return a.positions.begin < b.positions.begin; });
  return out;
}

/// Mask slices move with their documents into a padded stream.
template <class List = std::vector<slice>>
[[nodiscard]] List rebase(List list, documents const& q_from, documents const& q_to, documents const& k_from,
                          documents const& k_to) {
  static_assert(detail::require_list<List, slice>());
  for (slice& s : list) {
    auto d = static_cast<std::size_t>(s.document);
    index_t dq = q_to[d].begin - q_from[d].begin, dk = k_to[d].begin - k_from[d].begin;
    s.q0 += dq, s.q1 += dq, s.q_origin += dq, s.q_begin += dq;
    s.k0 += dk, s.k1 += dk, s.k_origin += dk;
    s.lo = detail::shifted(s.lo, dk - dq);
    s.hi = detail::shifted(s.hi, dk - dq);
  }
  return list;
}

} // namespace sp
