// Digests of what ranks must have in common: documents, everybody's runs, a mask.
// Equal things have equal digests on every rank; 0 is left for "not given".
#pragma once

#include <sp/core/digest.hpp>
#include <sp/geometry/mask.hpp>
#include <sp/layout/layout.hpp>

namespace sp::detail {

constexpr std::uint64_t given(digest const& d) { return d.value() ? d.value() : 1; }

inline std::uint64_t digest_of(documents const& docs) {
  digest d;
  d.add(docs.length()).add(docs.size());
  for (document const& x : docs) d.add(x.begin).add(x.count).add(x.room).add(x.id);
  return given(d);
}

/// Who owns which position: the runs of every part, in the stream of the layout's own (padded) documents.
inline std::uint64_t digest_of(layout const& l) {
  digest d;
  d.add(l.parts()).add(digest_of(l.docs()));
  for (int p = 0; p < l.parts(); ++p) {
    d.add(l.runs(p).size());
    for (run const& r : l.runs(p)) d.add(r.begin).add(r.count).add(r.stride);
  }
  return given(d);
}

inline std::uint64_t digest_of(mask const& m) {
  digest d;
  d.add(bounded(m.lo)).add(bounded(m.hi)).add(m.at).add(m.only_user).add(m.prefix.size());
  for (index_t n : m.prefix) d.add(n);
  for (auto const* list : {&m.spans, &m.user}) {
    d.add(list->size());
    for (slice const& s : *list) d.add(s.q0).add(s.q1).add(s.k0).add(s.k1).add(bounded(s.lo)).add(bounded(s.hi));
  }
  return given(d);
}

} // namespace sp::detail
