// Who owns which merged token: layouts of patches seen in units of `grain` rows that become one token each.
// Pure integers, the same on every rank; whoever owns the patches of a unit owns its token, and nothing moves.
#pragma once

#include <string>

#include <sp/layout/batch.hpp>

namespace sp {

namespace detail {

/// Documents of merged tokens, one behind the other: `prefix` rows of each vanish, and units of `grain` rows are one.
inline documents merged_documents(documents const& docs, index_t grain, index_t prefix) {
  if (grain < 1 || prefix < 0)
    fail({errc::invalid_shape, "units of " + std::to_string(grain) + " rows behind a prefix of " + std::to_string(prefix),
          "Give a grain of at least 1 and a prefix of at least 0", "merged"});
  std::vector<document> list;
  index_t at = 0;
  for (document const& d : docs) {
    index_t const count = d.count > 0 ? d.count - prefix : 0, room = d.room > 0 ? d.room - prefix : 0;
    if (count < 0 || count % grain != 0 || room % grain != 0)
      fail({errc::uneven_partition,
            "document " + std::to_string(list.size()) + " of " + std::to_string(d.count) + " rows in a room of " +
                std::to_string(d.room) + " is not " + std::to_string(prefix) + " prefix rows and units of " +
                std::to_string(grain),
            "Make the rows behind the prefix a multiple of the grain", "merged"});
    list.push_back({at, count / grain, room / grain, d.id});
    at = checked_add(at, room / grain);
  }
  return {std::move(list), at};
}

} // namespace detail

/// The layout of merged tokens: unit u of a document's patches, its rows [prefix + u grain, prefix + (u + 1) grain), is token u of the
/// same document, and belongs to the same part. The documents stand one behind the other. uneven_partition where a part owns a piece of
/// a unit, or has its rows in another order.
[[nodiscard]] inline layout merged(layout const& patches, index_t grain, index_t prefix = 0) {
  documents docs = detail::merged_documents(patches.docs(), grain, prefix);
  std::vector<std::vector<run>> tokens(static_cast<std::size_t>(patches.parts()));
  for (int p = 0; p < patches.parts(); ++p) {
    index_t row = 0; // the first local row of the run at hand
    for (run const& r : patches.runs(p)) {
      detail::for_each_document(patches.docs(), r, [&](std::size_t d, interval) {
        document const& from = patches.docs()[d];
        interval const in = clip(r, from.begin + prefix, from.begin + from.room);
        if (in.count == 0) return;
        index_t const first = r.at(in.first) - from.begin - prefix;
        bool const whole = grain == 1 || (first % grain == 0 && in.count % grain == 0 && r.stride == 1);
        if (!whole)
          fail({errc::uneven_partition,
                "rows " + std::to_string(row + in.first) + " to " + std::to_string(row + in.first + in.count - 1) + " of rank " +
                    std::to_string(p) + " are rows from " + std::to_string(first) + " on of document " + std::to_string(d) +
                    " with step " + std::to_string(r.stride) + ", no whole units of " + std::to_string(grain),
                "Cut patches in units of their merge: grained{your sharding, grain, prefix}", "merged", p, patches.parts()});
        append(tokens[static_cast<std::size_t>(p)],
               {docs[d].begin + first / grain, in.count / grain, grain == 1 ? r.stride : index_t{1}});
      });
      row += r.count;
    }
  }
  return {std::move(docs), tokens};
}

/// The batch of merged tokens of a batch of patches, for the same rank. What is padded stays padded.
[[nodiscard]] inline batch merged(batch const& patches, index_t grain, index_t prefix = 0) {
  return {detail::merged_documents(patches.source(), grain, prefix), merged(patches.layout(), grain, prefix), patches.part()};
}

} // namespace sp
