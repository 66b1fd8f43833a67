// The pieces of all samples of a step, checked: what a splice says of each, in stream order. No ranks and no communication.
// Whatever does not fit together is refused here with the number of its sample, on every rank alike.
#pragma once

#include <vector>

#include <sp/multimodal/splice.hpp>

namespace sp::detail {

/// A piece where it stands: rows [at, at + count) of the fused stream.
struct placed_piece {
  std::size_t sample = 0;
  index_t at = 0;
  fused_piece rows{};
};

/// What a splice says of the samples of a step.
struct fused_pieces {
  std::vector<placed_piece> list;          ///< in stream order, none empty
  std::vector<index_t> begins{0};          ///< [sample] -> its first row of the fused stream; one more: the end
  std::vector<index_t> visual_begins{0};   ///< [sample] -> its first visual row of the step; one more: the end
  std::vector<visual_item> items;          ///< of all samples
  std::vector<std::size_t> item_begins{0}; ///< [sample] -> its first item; one more: the end
  std::vector<fused_attention> attention;  ///< [sample]
  index_t learned = 0;                     ///< rows of the learned table

  [[nodiscard]] std::size_t samples() const noexcept { return begins.size() - 1; }
  [[nodiscard]] index_t length() const noexcept { return begins.back(); }
  [[nodiscard]] index_t visual_rows() const noexcept { return visual_begins.back(); }
};

/// Pieces of one sample: each within what the sample has.
class sample_pieces {
public:
  sample_pieces(fused_pieces& all, splice_sample const& s) : all_(all), sample_(s), visual_(s.rows()), at_(all.begins.back()) {}

  void add(fused_piece const& p) {
    switch (p.from) {
    case row_source::text:
      check(p, index_t(sample_.tokens.size()), "tokens");
      break;
    case row_source::visual:
      check(p, visual_, "visual rows");
      break;
    case row_source::learned:
      check(p, all_.learned, "learned rows");
      break;
    }
    if (p.count == 0) return;
    if (!continues(p))
      all_.list.push_back({all_.samples(), at_, p});
    else
      all_.list.back().rows.count += p.count;
    at_ = checked_add(at_, p.count);
  }
  void end(index_t limit) {
    if (index_t const rows = at_ - all_.begins.back(); limit > 0 && rows > limit)
      refuse_sample(sample_, "it fuses to " + counted(rows, "row") + ", the limit is " + std::to_string(limit),
                    "Cut its text, take fewer or smaller images, or raise fusion_options::limit");
    all_.begins.push_back(at_);
    all_.visual_begins.push_back(checked_add(all_.visual_begins.back(), visual_));
  }

private:
  void check(fused_piece const& p, index_t rows, char const* what) const {
    index_t const last = p.count > 0 ? checked_add(p.first, checked_mul(p.count - 1, p.step)) : 0;
    if (p.count < 0 || (p.count > 0 && (min(p.first, last) < 0 || max(p.first, last) >= rows)))
      refuse_sample(sample_,
                    "the splice takes " + std::to_string(p.count) + " " + what + " from " + std::to_string(p.first) + " on, " +
                        std::to_string(p.step) + " apart, of " + std::to_string(rows),
                    "Pieces name rows that the sample has");
  }
  bool continues(fused_piece const& p) const {
    if (all_.list.empty() || p.step != 1) return false;
    placed_piece const& before = all_.list.back();
    return before.sample == all_.samples() && before.rows.from == p.from && before.rows.step == 1 &&
           before.rows.first + before.rows.count == p.first && p.from != row_source::learned;
  }

  fused_pieces& all_;
  splice_sample const& sample_;
  index_t visual_, at_;
};

inline void refuse_empty_items(splice_sample const& s) {
  for (std::size_t i = 0; i < s.items.size(); ++i)
    if (visual_item const& x = s.items[i]; x.frames < 1 || x.height < 1 || x.width < 1)
      refuse_sample(s,
                    "image " + std::to_string(i) + " has a grid of " + std::to_string(x.frames) + " x " +
                        std::to_string(x.height) + " x " + std::to_string(x.width) + " merged tokens",
                    "Give frames, height and width of at least 1; leave images out that have no rows");
}

/// What its mask shows lies within the `rows` that a sample has fused to.
inline void check_attention(splice_sample const& s, fused_attention const& a, index_t rows) {
  if (a.prefix < 0 || a.prefix > rows)
    refuse_sample(s, "the splice gives it a prefix of " + counted(a.prefix, "row") + ", it fuses to " + counted(rows, "row"),
                  "attention_of(sample) counts rows of the fused sample that all of it sees");
}

/// Samples are numbered as they stand here. `limit`: rows of a fused sample at most, 0: any number.
template <class S>
[[nodiscard]] fused_pieces pieces_of(S const& splice, std::span<splice_sample const> samples, index_t limit) {
  fused_pieces all;
  all.learned = learned_rows_of(splice);
  for (splice_sample s : samples) {
    s.number = index_t(all.samples());
    refuse_empty_items(s);
    sample_pieces of_sample(all, s);
    splice.pieces(s, [&](fused_piece const& p) { of_sample.add(p); });
    of_sample.end(limit);
    all.items.insert(all.items.end(), s.items.begin(), s.items.end());
    all.item_begins.push_back(all.items.size());
    all.attention.push_back(attention_of(splice, s));
    check_attention(s, all.attention.back(), all.length() - all.begins[all.samples() - 1]);
  }
  return all;
}

/// Whose visual rows of a sample are; quick where they are asked in ascending order.
class item_search {
public:
  item_search(fused_pieces const& all, std::size_t sample) : all_(&all), first_(all.item_begins[sample]), item_(first_) {}
  /// The item of the step that visual row `row` of the sample belongs to. It is the in_item(row)-th of its rows.
  std::size_t item_of(index_t row) {
    if (row < begin_) item_ = first_, begin_ = 0;
    while (row >= begin_ + all_->items[item_].rows()) begin_ += all_->items[item_++].rows();
    return item_;
  }
  index_t in_item(index_t row) const { return row - begin_; }

private:
  fused_pieces const* all_;
  std::size_t first_, item_;
  index_t begin_ = 0; ///< of the item, among the rows of the sample
};

/// Calls f(item of the step, sample, place) for every visual row of the fused stream, in its order.
template <class F>
void for_each_visual_row(fused_pieces const& all, F&& f) {
  for (placed_piece const& p : all.list) {
    if (p.rows.from != row_source::visual) continue;
    item_search items(all, p.sample);
    for (index_t i = 0; i < p.rows.count; ++i) f(items.item_of(p.rows.first + i * p.rows.step), p.sample, p.at + i);
  }
}

} // namespace sp::detail
