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

inline void refuse_non_partition(std::vector<std::vector<run>> const& parts, index_t n) {
  index_t total = 0;
  std::vector<run> all;
  for (auto const& p : parts)
    for (run const& r : p) {
      bool inside = r.begin >= 0 && r.begin < n && r.stride >= 1 && r.count <= (n - 1 - r.begin) / r.stride + 1;
      if (r.count < 0 || r.stride < 1 || (r.count > 0 && !inside)) // before anything adds these numbers up
        fail({errc::uneven_partition,
              "the sharding gives a run {" + std::to_string(r.begin) + ", " + std::to_string(r.count) + ", " +
                  std::to_string(r.stride) + "} outside [0, " + std::to_string(n) + ")",
              "runs(n, part, parts) must stay inside [0, n)"});
      for (run const& o : all)
        if (run_overlap c = intersect(r, o); c.count > 0)
          fail({errc::uneven_partition,
                "the sharding gives token " + std::to_string(c.begin) + " of " + std::to_string(n) + " to two ranks",
                "The runs of all parts must be disjoint"});
      all.push_back(r);
      total += r.count;
    }
  if (total != n)
    fail({errc::uneven_partition, "the sharding gives away " + std::to_string(total) + " of " + std::to_string(n) + " tokens",
          "The runs of all parts together must cover every token"});
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
      for (document const& d : docs_) n = checked_add(n, d.room);
      auto runs = cut_one(n);
      for (std::size_t p = 0; p < all.size(); ++p) detail::to_stream(docs_, runs[p], all[p]);
    }
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
