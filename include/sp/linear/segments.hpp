// Segments: the runs of all ranks clipped to documents, in the order in which a state goes through them. Integers only.
// A run of stride 1 is consecutive tokens; one that takes every n-th token has no map of its own, and says who owns it.
#pragma once

#include <sp/linear/conv1d_rows.hpp>

namespace sp::detail {

/// Rows row, row + 1, ... of a part hold `count` consecutive tokens of a document.
struct linear_segment {
  std::size_t document = 0;
  index_t begin = 0, count = 0; ///< positions
  int part = 0;
  index_t row = 0;
};

/// The segments of a layout, slack left out: those of document d are [first[d], first[d + 1]) of `all`, in order. None has no tokens.
struct linear_segments {
  std::vector<linear_segment> all;
  std::vector<std::size_t> first{0};
  int striped = -1; ///< a part that owns a run of stride > 1 with several tokens of one document; then nothing is listed

  static linear_segments of(layout const& l) {
    linear_segments s;
    for (conv1d_run const& r : conv1d_runs(l)) {
      if (r.positions.count > 1 && r.positions.stride != 1) {
        linear_segments none;
        none.striped = r.part;
        return none;
      }
      while (s.first.size() <= r.document) s.first.push_back(s.all.size());
      s.all.push_back({r.document, r.positions.begin, r.positions.count, r.part, r.row});
    }
    while (s.first.size() <= l.docs().size()) s.first.push_back(s.all.size());
    return s;
  }
  [[nodiscard]] std::span<linear_segment const> document(std::size_t d) const {
    return {all.data() + first[d], first[d + 1] - first[d]};
  }
};

} // namespace sp::detail
