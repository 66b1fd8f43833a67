// Masks: who may see whom, as disjoint slices {q range, k range, lo <= k - q <= hi} in positions of the stream.
// Causal, full, windows, prefix-LM, image spans, cross attention and user lists all become slices; overlaps are refused, naming both.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <sp/core/sort.hpp>
#include <sp/geometry/documents.hpp>

namespace sp {

/// Queries [q0, q1) see keys [k0, k1) where lo <= k - q <= hi. Positions are the stream's; origins are the document's begins.
struct slice {
  index_t q0 = 0, q1 = 0, k0 = 0, k1 = 0;
  index_t lo = -unbounded, hi = unbounded;
  index_t document = 0;               ///< index of the document in the batch
  index_t id = 0;                     ///< the caller's id of it
  index_t q_origin = 0, k_origin = 0; ///< where the document starts, on either side

  constexpr bool sees(index_t q, index_t k) const noexcept {
    return q0 <= q && q < q1 && k0 <= k && k < k1 && lo <= k - q && k - q <= hi;
  }
  constexpr bool empty() const noexcept { return q0 >= q1 || k0 >= k1 || max(lo, k0 - (q1 - 1)) > min(hi, (k1 - 1) - q0); }
  friend constexpr bool operator==(slice const&, slice const&) = default;
};

/// Where query 0 of a document stands against its keys when the counts differ (cross attention, decode).
enum class align { begin, end };

/// Who may see whom, not yet tied to documents: `slices()` does that. Bounds and prefixes count from the begin of a document.
struct mask {
  index_t lo = -unbounded;       ///< k - q >= lo
  index_t hi = unbounded;        ///< k - q <= hi
  align at = align::begin;       ///< align::end: the last query stands on the last key
  std::vector<index_t> prefix{}; ///< per document: keys before prefix[d] are seen by the whole document
  std::vector<slice> spans{};    ///< image spans {q0, q1} = {k0, k1} of the stream that see themselves both ways
  std::vector<slice> user{};     ///< explicit slices of the stream; with these alone set `only_user`
  bool only_user = false;
  friend bool operator==(mask const&, mask const&) = default;
};

namespace detail {
/// Bounds come from callers; everything behind +-unbounded means the same, and only these leave room for sums.
constexpr index_t bounded(index_t bound) { return min(max(bound, -unbounded), unbounded); }
} // namespace detail

/// Every query sees every key of its document.
[[nodiscard]] constexpr mask full() { return {}; }
/// Keys up to the query's own position.
[[nodiscard]] constexpr mask causal() { return {.hi = 0}; }
/// Keys from `left` before to `right` after the query.
[[nodiscard]] constexpr mask window(index_t left, index_t right = 0) {
  return {.lo = -detail::bounded(left), .hi = detail::bounded(right)};
}
/// Prefix-LM: causal, and the first lengths[d] keys of document d are seen by all its queries.
[[nodiscard]] constexpr mask prefix_lm(std::vector<index_t> lengths) { return {.hi = 0, .prefix = std::move(lengths)}; }
/// Causal text with spans of the stream (images) that see themselves in both directions.
[[nodiscard]] constexpr mask image_spans(std::span<document const> spans) {
  mask m = causal();
  for (document const& s : spans) {
    index_t end = checked_add(s.begin, s.count);
    m.spans.push_back({s.begin, end, s.begin, end});
  }
  return m;
}
/// Any list of slices in stream positions; lo and hi are bounds on k - q there.
[[nodiscard]] constexpr mask user_slices(std::vector<slice> list) { return {.user = std::move(list), .only_user = true}; }

namespace detail {

/// A bound of k - q, for messages.
inline std::string bound_text(index_t bound) {
  return bound >= unbounded ? "inf" : bound <= -unbounded ? "-inf" : std::to_string(bound);
}

inline std::string describe(slice const& s) {
  auto n = bound_text;
  return "{q [" + n(s.q0) + ", " + n(s.q1) + "), k [" + n(s.k0) + ", " + n(s.k1) + "), " + n(s.lo) + " <= k - q <= " + n(s.hi) +
         "}";
}

constexpr index_t shifted(index_t bound, index_t by) { return bound >= unbounded || bound <= -unbounded ? bound : bound + by; }

/// Some pair (q, k) lies in both.
constexpr bool overlap(slice const& a, slice const& b) {
  slice c{max(a.q0, b.q0), min(a.q1, b.q1), max(a.k0, b.k0), min(a.k1, b.k1), max(a.lo, b.lo), min(a.hi, b.hi)};
  return !c.empty();
}

/// Called where `only_user` is set, too: spans look at prefixes.
constexpr void refuse_prefix(mask const& m, documents const& k) {
  for (std::size_t d = 0; d < m.prefix.size(); ++d)
    if (index_t prefix = m.prefix[d]; prefix < 0 || prefix > k[d].count)
      fail({errc::bad_mask,
            "prefix " + std::to_string(prefix) + " of document " + std::to_string(d) + " with " + std::to_string(k[d].count) +
                " keys",
            "A prefix lies inside its document"});
}

/// Appends what the bounds and the prefix of a mask show of one document pair.
constexpr void document_slices(mask const& m, std::size_t d, document const& q, document const& k, std::vector<slice>& out) {
  index_t by = k.begin - q.begin + (m.at == align::end ? k.count - q.count : 0);
  slice s{q.begin, q.end(), k.begin, k.end(), shifted(m.lo, by), shifted(m.hi, by), index_t(d), q.id, q.begin, k.begin};
  index_t prefix = m.prefix.empty() ? 0 : m.prefix[d];
  if (prefix > 0) { // two disjoint slices: all x prefix is full, all x rest keeps the bounds
    slice p = s;
    p.k1 = k.begin + prefix;
    p.lo = -unbounded;
    p.hi = unbounded;
    s.k0 = p.k1;
    if (!p.empty()) out.push_back(p);
  }
  if (!s.empty()) out.push_back(s);
}

/// Appends what a span adds to the bounds: the keys after the query, and those before the window. Keys of a prefix are seen already.
constexpr void span_slices(mask const& m, std::size_t d, document const& doc, slice const& span, std::vector<slice>& out) {
  index_t prefix = m.prefix.empty() ? 0 : m.prefix[d];
  slice s{span.q0,   span.q1,  max(span.k0, doc.begin + prefix), span.k1, -unbounded, unbounded, index_t(d), doc.id,
          doc.begin, doc.begin};
  slice after = s, before = s;
  after.lo = checked_add(m.hi, 1);
  before.hi = m.lo - 1;
  if (m.hi < unbounded && !after.empty()) out.push_back(after);
  if (m.lo > -unbounded && !before.empty()) out.push_back(before);
}

constexpr std::size_t document_of(slice const& s, documents const& q, documents const& k) {
  for (std::size_t d = 0; d < q.size(); ++d)
    if (q[d].begin <= s.q0 && s.q1 <= q[d].end() && k[d].begin <= s.k0 && s.k1 <= k[d].end()) return d;
  fail({errc::bad_mask, "slice " + describe(s) + " leaves its document",
        "Attention never crosses a document; make the documents one"});
}

constexpr void refuse_overlaps(std::vector<slice> const& sorted) {
  for (std::size_t i = 0; i < sorted.size(); ++i)
    for (std::size_t j = i + 1; j < sorted.size() && sorted[j].document == sorted[i].document; ++j)
      if (overlap(sorted[i], sorted[j]))
        fail({errc::bad_mask,
              "slices " + describe(sorted[i]) + " and " + describe(sorted[j]) + " overlap: keys would count twice",
              "Make the slices disjoint"});
}

/// What a mask must be whatever it shows; `prefix` and spans are looked at where they are used.
constexpr void refuse_mask(mask const& m, documents const& q, documents const& k) {
  if (q.size() != k.size())
    fail({errc::bad_documents, std::to_string(q.size()) + " query documents, " + std::to_string(k.size()) + " key documents",
          "Queries and keys need the same number of documents; empty ones are allowed"});
  if (!m.prefix.empty() && m.prefix.size() != k.size())
    fail({errc::bad_mask, std::to_string(m.prefix.size()) + " prefix lengths for " + std::to_string(k.size()) + " documents",
          "Give one prefix length per document"});
  refuse_prefix(m, k);
  if (m.lo > m.hi)
    fail({errc::bad_mask, "the mask is reversed: lo " + std::to_string(m.lo) + " > hi " + std::to_string(m.hi), "lo <= hi"});
}

/// Appends what the image spans of a mask add.
constexpr void append_spans(mask const& m, documents const& q, documents const& k, std::vector<slice>& out) {
  for (slice const& s : m.spans) {
    std::size_t d = document_of(s, q, k);
    if (q[d].begin != k[d].begin || q[d].count != k[d].count)
      fail({errc::bad_mask, "image span " + describe(s) + " in document " + std::to_string(d) + ", whose queries and keys differ",
            "Spans are for self attention; use user slices here"});
    span_slices(m, d, q[d], s, out);
  }
}

/// Appends the caller's own slices, with the numbers of the document each lies in.
constexpr void append_user(mask const& m, documents const& q, documents const& k, std::vector<slice>& out) {
  for (slice s : m.user) {
    if (s.q0 > s.q1 || s.k0 > s.k1 || s.lo > s.hi)
      fail({errc::bad_mask, "slice " + describe(s) + " is reversed", "Give lo <= hi and begin <= end"});
    if (s.q0 == s.q1 || s.k0 == s.k1) continue;
    s.lo = bounded(s.lo);
    s.hi = bounded(s.hi);
    std::size_t d = document_of(s, q, k); // first, so that empty() meets positions of the stream only
    if (s.empty()) continue;
    s.document = index_t(d);
    s.id = q[d].id;
    s.q_origin = q[d].begin;
    s.k_origin = k[d].begin;
    out.push_back(s);
  }
}

} // namespace detail

/// The mask of a batch: disjoint slices sorted by document. Documents of queries and keys pair up by index.
[[nodiscard]] constexpr std::vector<slice> slices(mask m, documents const& q, documents const& k) {
  detail::refuse_mask(m, q, k);
  m.lo = detail::bounded(m.lo);
  m.hi = detail::bounded(m.hi);
  std::vector<slice> out;
  if (!m.only_user)
    for (std::size_t d = 0; d < q.size(); ++d) detail::document_slices(m, d, q[d], k[d], out);
  detail::append_spans(m, q, k, out);
  detail::append_user(m, q, k, out);
  detail::sort(out, [](slice const& a, slice const& b) {
    return a.document != b.document ? a.document < b.document
           : a.k0 != b.k0           ? a.k0 < b.k0
           : a.q0 != b.q0           ? a.q0 < b.q0
                                    : a.lo < b.lo;
  });
  detail::refuse_overlaps(out);
  return out;
}

} // namespace sp
