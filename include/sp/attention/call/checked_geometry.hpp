// What is kept with every prepared geometry for the checks of calls on it: what it was made of, and which of its rows hold tokens.
// A rank that is given the geometry of another place refuses the call before it computes or sends; from level 2 on all ranks do.
#pragma once

#include <sp/attention/call/identity.hpp>
#include <sp/collective/check/fingerprint.hpp>
#include <sp/layout/batch.hpp>
#include <sp/layout/digests.hpp>
#include <sp/mesh/group.hpp>

namespace sp::detail {

/// Rows of a rank's tensors that hold tokens: row + i is position + i * stride of the caller's stream, or prefix token i of a document.
struct real_rows {
  index_t row = 0, count = 0, position = 0, stride = 1;
  std::size_t document = 0;
  bool prefix = false;

  /// Where row + i is, for messages.
  std::string place(index_t i) const {
    return (prefix ? "prefix token " + std::to_string(i)
                   : "position " + std::to_string(position + i * stride) + " of the stream") +
           ", document " + std::to_string(document);
  }
};

inline std::vector<real_rows> real_rows_of(batch const& b) {
  std::vector<real_rows> out;
  index_t base = 0;
  for (run const& r : b.runs()) {
    for_each_document(b.docs(), r, [&](std::size_t d, interval) {
      document const& x = b.docs()[d];
      if (interval in = clip(r, x.begin, x.end()); in.count)
        out.push_back({base + in.first, in.count, b.source()[d].begin + r.at(in.first) - x.begin, r.stride, d});
    });
    base += r.count;
  }
  return out;
}

/// Ranks that an attention object sends to, over all its groups.
template <class Object>
index_t ranks_of(Object const& o) {
  index_t n = 1;
  o.each_group([&](auto const& comm) { n *= comm.size(); });
  return n;
}

/// What all geometries that this object prepares under its own mask have in common; the batches are still to be filled in.
template <class Object>
geometry_identity identity_without_batches(Object const& o) {
  digest d;
  o.each_group([&](auto const& comm) {
    group_place::in(comm).add_to(d);
    d.add(sp::group_stride(comm));
  });
  o.identify(d);
  return {0, 0, digest_of(o.mask()), given(d), {o.sequence_rank(), int(ranks_of(o))}};
}

/// What a prepared geometry keeps for the checks: what it was made of, and from level 2 on what ranks compare. The number of calls is
/// kept here, so that attention objects stay const. It counts alike on all ranks: from level 2 on prepare() is collective, a batch
/// keeps the geometry of a short-form call for the object that prepared it and its copies, and calls that were refused do not count.
struct checked_geometry {
  geometry_identity identity{};
  int level = 0;            ///< level_of the object that prepared it
  std::uint64_t object = 0; ///< the number of that object
  std::uint64_t q_documents = 0, k_documents = 0, q_sharding = 0, k_sharding = 0, tokens = 0; ///< digests
  std::vector<real_rows> q_rows, k_rows;                                                      ///< level 3
  mutable std::uint64_t calls = 0;                                                            ///< checked calls so far

  checked_geometry() = default;
  checked_geometry(geometry_identity const& made_of, int checks, std::uint64_t by, batch const& q, batch const& k)
      : identity(made_of), level(level_of(checks)), object(by) {
    if (level == 0) return;
    q_documents = digest_of(q.source()), k_documents = digest_of(k.source());
    q_sharding = digest_of(q.layout()), k_sharding = digest_of(k.layout());
    if (q.token_digest() || k.token_digest()) tokens = given(digest().add(q.token_digest()).add(k.token_digest()));
    if (level < 3) return;
    q_rows = real_rows_of(q);
    k_rows = real_rows_of(k);
  }
  /// Rows of prefix tokens stand in front of all others: `prefix` of each document.
  void put_behind(index_t prefix, std::size_t documents_of_batch) {
    if (level < 3) return;
    for (auto* list : {&q_rows, &k_rows}) {
      for (real_rows& r : *list) r.row += prefix * index_t(documents_of_batch);
      for (std::size_t d = 0; prefix > 0 && d < documents_of_batch; ++d)
        list->push_back({prefix * index_t(d), prefix, 0, 1, d, true});
    }
  }
  /// Nothing is kept for levels below 2.
  static int level_of(int checks) { return checks < 2 ? 0 : checks; }
  /// Whether short-form calls of an object may take it from the batch. Where prepare() is collective an object takes only what it
  /// prepared itself: one of equal place in another group would find it on some ranks and not on others.
  bool serves(geometry_identity const& wanted, int checks, std::uint64_t by) const {
    return identity == wanted && level == level_of(checks) && (level == 0 || object == by);
  }
  /// A geometry that was prepared at a lower level knows neither digests nor slack rows.
  void require(int wanted) const {
    if (level < wanted)
      fail({errc::bad_state,
            "this geometry was prepared at a check level below " + std::to_string(wanted) + ", which this call has",
            "Prepare with an object of the same level"});
  }
  void describe(fingerprint& f) const {
    f.hash("documents", q_documents).hash("key documents", k_documents);
    f.hash("sharding", q_sharding).hash("key sharding", k_sharding).hash("tokens", tokens).hash("mask", identity.mask);
  }
};

} // namespace sp::detail
