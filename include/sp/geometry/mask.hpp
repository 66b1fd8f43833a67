// Masks: who may see whom, as disjoint slices {q range, k range, lo <= k - q <= hi} in positions of the stream.
// Causal, full, windows, prefix-LM, image spans, cross attention and user lists all become slices; overlaps are refused, naming both.
#pragma once

#include <span>
#include <string>
#include <vector>

#include <sp/core/sort.hpp>
#include <sp/geometry/documents.hpp>

namespace sp {

/// Queries [q0, q1) see keys [k0, k1) where lo <= k - q <= hi. Positions are the stream's; position - origin is the offset in the
/// document, on either side: what ALiBi and dropout count.
struct slice {
  index_t q0 = 0, q1 = 0, k0 = 0, k1 = 0;
  index_t lo = -unbounded, hi = unbounded;
  index_t document = 0;               ///< index of the document in the batch
  index_t id = 0;                     ///< the caller's id of it
  index_t q_origin = 0, k_origin = 0; ///< where offset 0 of the document stands, on either side
  index_t q_begin = 0;                ///< where its queries begin; under align::end they need not begin at offset 0

  constexpr bool sees(index_t q, index_t k) const noexcept {
    return q0 <= q && q < q1 && k0 <= k && k < k1 && lo <= k - q && k - q <= hi;
  }
  constexpr bool empty() const noexcept { return q0 >= q1 || k0 >= k1 || max(lo, k0 - (q1 - 1)) > min(hi, (k1 - 1) - q0); }
  friend constexpr bool operator==(slice const&, slice const&) = default;
};

/// Where a document's queries stand against its keys: they are the same tokens; the first stands on the first key; the last stands on
/// the last key (decode with a cache). Where bounds or ALiBi look at positions, `equal` refuses documents whose counts differ.
enum class align { equal, begin, end };

/// Who may see whom, not yet tied to documents: `slices()` does that. Bounds and prefixes are about offsets in a document.
struct mask {
  index_t lo = -unbounded;       ///< k - q >= lo
  index_t hi = unbounded;        ///< k - q <= hi
  align at = align::equal;       ///< to be said where queries and keys differ in number: align::end for decode
  std::vector<index_t> prefix{}; ///< per document: keys before prefix[d] are seen by the whole document
  std::vector<slice> spans{};    ///< image spans {q0, q1} = {k0, k1} of the keys' stream that see themselves both ways
  std::vector<slice> user{};     ///< explicit slices of the stream, beside what else is shown
  bool only_user = false;        ///< nothing else is shown: bounds, prefixes and spans are refused
  friend bool operator==(mask const&, mask const&) = default;
};

namespace detail {
/// Bounds come from callers; everything behind +-unbounded means the same, and only these leave room for sums.
constexpr index_t bounded(index_t bound) { return min(max(bound, -unbounded), unbounded); }
} // namespace detail

/// Every query sees every key of its document.
[[nodiscard]] constexpr mask full(align at = align::equal) { return {.at = at}; }
/// Keys up to the query's own position.
[[nodiscard]] constexpr mask causal(align at = align::equal) { return {.hi = 0, .at = at}; }
/// Keys from `left` before to `right` after the query.
[[nodiscard]] constexpr mask window(index_t left, index_t right = 0, align at = align::equal) {
  return {.lo = -detail::bounded(left), .hi = detail::bounded(right), .at = at};
}
/// Prefix-LM: causal, and the first lengths[d] keys of document d are seen by all its queries.
[[nodiscard]] constexpr mask prefix_lm(std::vector<index_t> lengths, align at = align::equal) {
  return {.hi = 0, .at = at, .prefix = std::move(lengths)};
}
/// Causal text with spans of the keys' stream (images) that see themselves in both directions.
[[nodiscard]] constexpr mask image_spans(std::span<document const> spans, align at = align::equal) {
  mask m = causal(at);
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

/// Refuses documents whose queries and keys differ in number if nobody said how they stand. `who` needs to know it.
constexpr void refuse_unaligned(mask const& m, documents const& q, documents const& k, char const* who) {
  for (std::size_t d = 0; m.at == align::equal && d < q.size(); ++d)
    if (q[d].count != k[d].count && q[d].count > 0 && k[d].count > 0)
      fail({errc::bad_mask,
            "document " + std::to_string(d) + " has " + std::to_string(q[d].count) + " queries and " +
                std::to_string(k[d].count) + " keys, and the mask does not say where they stand, which " + who + " needs",
            "Set mask.at: sp::align::end puts the last query on the last key (decode), sp::align::begin the first on the first"});
}

/// The stream position of offset 0 of a document, on the side of its queries; in front of them when they are the last of its tokens.
constexpr index_t query_origin(mask const& m, document const& q, document const& k) {
  return m.at == align::end ? q.begin + q.count - k.count : q.begin;
}

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
  index_t origin = query_origin(m, q, k), by = k.begin - origin;
  slice s{q.begin, q.end(), k.begin, k.end(), shifted(m.lo, by), shifted(m.hi, by), index_t(d), q.id, origin, k.begin, q.begin};
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
constexpr void span_slices(mask const& m, std::size_t d, document const& q, document const& k, slice const& span,
                           std::vector<slice>& out) {
  index_t prefix = m.prefix.empty() ? 0 : m.prefix[d], origin = query_origin(m, q, k), by = k.begin - origin;
  index_t q0 = max(span.q0 - by, q.begin), q1 = min(span.q1 - by, q.end()); // queries that stand in the span
  slice s{q0, q1, max(span.k0, k.begin + prefix), span.k1, -unbounded, unbounded, index_t(d), q.id, origin, k.begin, q.begin};
  slice after = s, before = s;
  after.lo = m.hi + 1 + by;
  before.hi = m.lo - 1 + by;
  if (m.hi < unbounded && !after.empty()) out.push_back(after);
  if (m.lo > -unbounded && !before.empty()) out.push_back(before);
}

constexpr std::size_t document_of(slice const& s, documents const& q, documents const& k) {
  for (std::size_t d = 0; d < q.size(); ++d)
    if (q[d].begin <= s.q0 && s.q1 <= q[d].end() && k[d].begin <= s.k0 && s.k1 <= k[d].end()) return d;
  fail({errc::bad_mask, "slice " + describe(s) + " leaves its document",
        "Attention never crosses a document; make the documents one"});
}

/// What `only_user` rules out, in words; empty if the mask has none of it.
inline std::string beside_user_slices(mask const& m) {
  std::string s;
  auto add = [&s](bool there, std::string const& what) { s += there ? (s.empty() ? "" : " and ") + what : ""; };
  add(m.lo > -unbounded || m.hi < unbounded, "bounds " + bound_text(m.lo) + " <= k - q <= " + bound_text(m.hi));
  add(!m.prefix.empty(), std::to_string(m.prefix.size()) + " prefix lengths");
  add(!m.spans.empty(), std::to_string(m.spans.size()) + " image spans");
  return s;
}

constexpr void refuse_overlaps(std::vector<slice> const& sorted) {
  for (std::size_t i = 0; i < sorted.size(); ++i)
    for (std::size_t j = i + 1; j < sorted.size() && sorted[j].document == sorted[i].document; ++j)
      if (overlap(sorted[i], sorted[j]))
        fail({errc::bad_mask,
              "slices " + describe(sorted[i]) + " and " + describe(sorted[j]) + " overlap: keys would count twice",
              "Make the slices disjoint"});
}

/// What a mask must be whatever it shows; spans and user slices are looked at where they are used.
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
  if (m.only_user && (m.lo > -unbounded || m.hi < unbounded || !m.prefix.empty() || !m.spans.empty()))
    fail({errc::bad_mask, "a mask of user slices alone (only_user) has " + beside_user_slices(m) + " too, which would not count",
          "Leave them out, or clear only_user: user slices are then shown beside them, and must not overlap them"});
  if (m.lo > -unbounded || m.hi < unbounded) refuse_unaligned(m, q, k, "a causal mask or a window");
}

/// Appends what the image spans of a mask add.
constexpr void append_spans(mask const& m, documents const& q, documents const& k, std::vector<slice>& out) {
  for (slice const& s : m.spans) {
    std::size_t d = document_of(s, k, k);
    if (s.q0 < s.q1 && s.k0 < s.k1) span_slices(m, d, q[d], k[d], s, out);
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
    s.q_origin = query_origin(m, q[d], k[d]);
    s.k_origin = k[d].begin;
    s.q_begin = q[d].begin;
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
