// The decoder's batch behind a splice: documents, labels, positions, weights, mask, marked rows, and the routes by which rows get there.
// All of it follows from token ids, grids and layouts, on every rank alike and without communication.
#pragma once

#include <sp/core/group_place.hpp>
#include <sp/geometry/mask.hpp>
#include <sp/layout/landing_table.hpp>
#include <sp/multimodal/fused_positions.hpp>
#include <sp/multimodal/fused_routes.hpp>

namespace sp {

/// Rows that a rank sends to others, and receives from them: in forward passes; backward the other way round.
struct moved_rows {
  index_t sent = 0, received = 0;
};

namespace detail {

/// Who lands where, on the ways of a fused stream, for queues of other memory than the host's.
template <class M>
struct fused_tables {
  landing_table<M> text, visual, learned; ///< of gradients
  landing_table<M> features;              ///< of features that are added to hidden states
};

/// Of whom a fused batch is: the place in the group, and the fusion that made it.
struct fused_origin {
  group_place place{};
  std::uint64_t object = 0;
  std::uint64_t digest = 0; ///< of rows, layout and the place of each row, from check level 2 on
};

} // namespace detail

/// What fusion::prepare returns: movable, belongs to one rank. Labels and positions are those of the fused stream, of which document d is
/// sample d.
class fused_batch {
public:
  /// The decoder's batch: one document a sample, its ids those of the text's documents.
  [[nodiscard]] sp::batch const& batch() const noexcept { return batch_; }
  [[nodiscard]] sp::documents const& documents() const noexcept { return batch_.source(); }
  /// Rows of this rank's hidden states.
  [[nodiscard]] index_t tokens() const noexcept { return batch_.tokens(); }

  /// Labels (tokens) of this rank's rows: the token behind each row in its document, `ignore` where an image or learned row stands there,
  /// behind the last one, and in slack. So the row before an image is ignored, and its last row predicts the text behind it. `own`:
  /// labels of the text tokens, all samples' one behind the other, instead of their ids (a prompt's that are not learned are `ignore`).
  template <queue Q, class T>
  void labels(Q const& q, detail::view_on<Q, T, 1> out, std::span<index_t const> own = {}) const {
    detail::check_rows(batch_, out, "fused_batch.labels");
    detail::write_rows<Q, T, 1>(q, out, labels_of<T>(own));
  }
  template <class T>
  void labels(view<T, 1> out, std::span<index_t const> own = {}) const {
    labels<inline_queue, T>(inline_queue{}, out, own);
  }

  /// 1 for rows that count in a loss with these labels, 0 for others; slack does not count.
  template <queue Q, class Weight, class Label>
  void loss_weights(Q const& q, detail::view_on<Q, Label, 1> labels, detail::view_on<Q, Weight, 1> weights) const {
    sp::loss_weights<Q, Weight, Label>(q, batch_, labels, weights, std::remove_const_t<Label>(ignore_));
  }
  template <class Weight, class Label>
  void loss_weights(view<Label, 1> labels, view<Weight, 1> weights) const {
    loss_weights<inline_queue, Weight, Label>(inline_queue{}, labels, weights);
  }

  /// Positions (tokens) of this rank's rows in their documents, or in the fused stream.
  template <queue Q>
  void positions(Q const& q, detail::view_on<Q, index_t, 1> out, positions_in what = positions_in::document) const {
    sp::positions(q, batch_, out, what);
  }
  void positions(view<index_t, 1> out, positions_in what = positions_in::document) const { sp::positions(batch_, out, what); }
  /// Rotary positions (tokens, 3) = (time, height, width); slack rows get 0.
  template <queue Q>
  void positions_3d(Q const& q, detail::view_on<Q, index_t, 2> out, rotary_options options = {}) const {
    detail::check_rotary_rows(batch_, out, "fused_batch.positions_3d");
    auto const segments = detail::fused_rotary(pieces_, options).made();
    detail::write_rows<Q, index_t, 2>(q, out, detail::rotary_rows(batch_, segments));
  }
  void positions_3d(view<index_t, 2> out, rotary_options options = {}) const { positions_3d(inline_queue{}, out, options); }

  /// This rank's rows that are visual rows, in ascending order.
  [[nodiscard]] std::vector<index_t> const& visual_rows() const noexcept { return visual_rows_; }
  /// The same as marks (tokens): 1 for visual rows, 0 for others.
  template <queue Q, class Flag>
  void visual_mask(Q const& q, detail::view_on<Q, Flag, 1> out) const {
    detail::check_rows(batch_, out, "fused_batch.visual_mask");
    std::vector<Flag> marks(std::size_t(tokens()), Flag{});
    for (index_t r : visual_rows_) marks[std::size_t(r)] = Flag{1};
    detail::write_rows<Q, Flag, 1>(q, out, marks);
  }
  template <class Flag>
  void visual_mask(view<Flag, 1> out) const {
    visual_mask<inline_queue, Flag>(inline_queue{}, out);
  }

  /// The decoder's mask: causal, with the prefixes and image spans of the splice. For prepare(batch(), mask()) of an attention object or
  /// slot, where it takes the place of the mask that the object was made with: a window of that one is to be put in here by the caller.
  [[nodiscard]] sp::mask const& mask() const noexcept { return mask_; }

  /// The label that does not count.
  [[nodiscard]] index_t ignore_index() const noexcept { return ignore_; }
  /// Rows of text and visual features on this rank, and of the learned table on every rank.
  [[nodiscard]] index_t text_tokens() const noexcept { return ways_.text.there.from_rows(); }
  [[nodiscard]] index_t visual_tokens() const noexcept { return ways_.visual.there.from_rows(); }
  [[nodiscard]] index_t learned_rows() const noexcept { return ways_.learned.there.from_rows(); }
  /// The ways into hidden states.
  [[nodiscard]] route const& text_route() const noexcept { return ways_.text.there; }
  [[nodiscard]] route const& visual_route() const noexcept { return ways_.visual.there; }
  /// What moves along them: times the bytes of a row, the bytes of a pass. Learned rows do not move.
  [[nodiscard]] moved_rows text_moved() const { return moved(ways_.text.there); }
  [[nodiscard]] moved_rows visual_moved() const { return moved(ways_.visual.there); }

private:
  template <class S, class Comm>
  friend class fusion;
  template <class Comm>
  friend class deepstack;

  fused_batch(sp::batch b, detail::fused_pieces pieces, detail::fused_ways ways, std::span<splice_sample const> samples,
              index_t ignore, detail::fused_origin origin)
      : batch_(std::move(b)), pieces_(std::move(pieces)), ways_(std::move(ways)), ignore_(ignore), origin_(origin) {
    for (splice_sample const& s : samples) {
      text_begins_.push_back(index_t(ids_.size()));
      ids_.insert(ids_.end(), s.tokens.begin(), s.tokens.end());
    }
    std::vector<char> marks(std::size_t(pieces_.length()));
    detail::for_each_visual_row(pieces_, [&](std::size_t, std::size_t, index_t at) { marks[std::size_t(at)] = 1; });
    visual_rows_ = local_rows(batch_, std::span<char const>(marks));
    make_mask();
  }

  /// Null where there are none: sums are then pass by pass.
  template <class M>
  detail::fused_tables<M> const* tables() const {
    return has_tables_ ? &tables_.as<detail::fused_tables<M>>() : nullptr;
  }
  bool has_slack() const {
    for (document const& d : batch_.docs())
      if (d.room > d.count) return true;
    return false;
  }
  static moved_rows moved(route const& r) {
    return {detail::rows_with_others(r, r.sends()), detail::rows_with_others(r, r.lands())};
  }

  /// Prefixes where the splice asks for some; a span is the rows of an image without text between them, learned rows in it included.
  void make_mask() {
    mask_ = causal();
    bool any = false, both_ways = false;
    for (fused_attention const& a : pieces_.attention) any = any || a.prefix > 0, both_ways = both_ways || a.images_both_ways;
    if (any)
      for (fused_attention const& a : pieces_.attention) mask_.prefix.push_back(a.prefix);
    if (!both_ways) return;
    std::vector<document> spans;
    std::size_t open = std::size_t(-1); // the item of the last span, while rows may join it
    index_t end = 0;
    detail::for_each_visual_row(pieces_, [&](std::size_t item, std::size_t sample, index_t at) {
      if (!pieces_.attention[sample].images_both_ways) return;
      if (open == item && only_learned(end, at))
        spans.back().count = at + 1 - spans.back().begin;
      else
        spans.push_back({at, 1, 1, 0});
      open = item, end = at + 1;
    });
    if (!spans.empty()) mask_.spans = image_spans(spans).spans;
  }
  /// Whether nothing but learned rows stands in [from, to).
  bool only_learned(index_t from, index_t to) const {
    for (; from < to; ++from)
      if (source_of(from) != row_source::learned) return false;
    return true;
  }
  row_source source_of(index_t at) const {
    std::size_t i = 0;
    for (std::size_t end = pieces_.list.size(); i + 1 < end;) {
      std::size_t const middle = i + (end - i) / 2;
      (pieces_.list[middle].at <= at ? i : end) = middle;
    }
    return pieces_.list[i].rows.from;
  }

  /// Shifted in the fused stream, then cut.
  template <class T>
  std::vector<T> labels_of(std::span<index_t const> own) const {
    static_assert(std::is_integral_v<T> && std::is_signed_v<T>,
                  "sp::fused_batch: labels are signed integers: ignore_index is negative.");
    if (!own.empty() && own.size() != ids_.size())
      fail({errc::bad_documents, std::to_string(own.size()) + " labels for " + std::to_string(ids_.size()) + " text tokens",
            "Give one label for each token of all samples, before the splice", "fused_batch.labels", batch_.part(),
            batch_.parts()});
    std::vector<T> all(std::size_t(pieces_.length()), T(ignore_)), mine(static_cast<std::size_t>(tokens()));
    for (detail::placed_piece const& p : pieces_.list)
      if (p.rows.from == row_source::text)
        for (index_t i = 0; i < p.rows.count; ++i) {
          auto const token = std::size_t(text_begins_[p.sample] + p.rows.first + i * p.rows.step);
          all[std::size_t(p.at + i)] = T(own.empty() ? ids_[token] : own[token]);
        }
    view<T const, 1> const stream(all.data(), {pieces_.length()});
    shifted_labels(batch_, stream, view<T, 1>(mine.data(), {tokens()}), T(ignore_));
    return mine;
  }

  sp::batch batch_;
  detail::fused_pieces pieces_;
  detail::fused_ways ways_;
  std::vector<index_t> ids_;         ///< of all samples
  std::vector<index_t> text_begins_; ///< [sample] -> its first entry there
  index_t ignore_;
  detail::fused_origin origin_;
  std::vector<index_t> visual_rows_;
  sp::mask mask_;
  detail::box tables_; ///< fused_tables<M>, where prepare() had a context of other memory than the host's
  bool has_tables_ = false;
};

} // namespace sp
