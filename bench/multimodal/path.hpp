// The path of attention through a vision-language model, on one rank's rows: vision tower, merge, fusion, deepstack, decoder, and back.
// One layer of each, without weights: what is timed is what sp does. Every stage is told to a clock.
#pragma once

#include <algorithm>
#include <cmath>

#include <sp/counting.hpp>

#include "multimodal/workload.hpp"

namespace multimodal {

enum stage : int {
  vision_forward,
  fusion_forward,
  deepstack_forward,
  text_forward,
  text_backward,
  deepstack_backward,
  fusion_backward,
  vision_backward,
  rows_between, ///< the projection and its gradient, sums of gradients: each rank's own rows
  stages
};
inline constexpr char const* stage_names[stages] = {"vision forward",  "fusion forward",  "deepstack forward",
                                                    "text forward",    "text backward",   "deepstack backward",
                                                    "fusion backward", "vision backward", "rows between"};

/// What all ranks found, in the order of the streams: of the tower with its prefix rows first, of the text, of the decoder.
struct results {
  std::vector<double> out, dtext, dpatches;
  explicit results(workload const& w)
      : out(std::size_t(w.tokens * width)), dtext(w.ids.size() * std::size_t(width)),
        dpatches(std::size_t((w.prefix_rows() + w.tokens) * width)) {}

  /// Largest difference, in units of the largest number of each tensor; infinite where something is no number.
  double difference(results const& o) const {
    double worst = 0;
    for (auto tensor : {&results::out, &results::dtext, &results::dpatches}) {
      std::vector<double> const &a = this->*tensor, &b = o.*tensor;
      double largest = 0, differs = 0;
      for (std::size_t i = 0; i < a.size(); ++i) {
        double const d = std::abs(a[i] - b[i]);
        largest = std::max(largest, std::abs(b[i]));
        differs = std::isfinite(d) ? std::max(differs, d) : INFINITY;
      }
      worst = std::max(worst, largest > 0 ? differs / largest : INFINITY);
    }
    return worst;
  }
};

/// Tensors of one rank. Those of `width` numbers a row are seen as heads, too.
template <class T>
struct rows {
  std::vector<T> memory;
  index_t width_;
  explicit rows(index_t n, index_t w = width) : memory(std::size_t(n * w)), width_(w) {}
  index_t size() const { return index_t(memory.size()) / width_; }
  sp::view<T, 2> flat() { return {memory.data(), {size(), width_}}; }               // (rows, width)
  sp::view<T, 3> by_head() { return {memory.data(), {size(), width_ / dim, dim}}; } // (rows, heads, dim)
  sp::view<T, 3> by_head(index_t first, index_t count) {
    return {memory.data() + first * dim, {size(), count, dim}, {width_, dim, 1}};
  }
};

/// Made for one size; step() may be called any number of times. Vision: a vit_attention; Text: an attention object; both over `ranks`.
template <class T, class Comm, class Vision, class Text>
class path {
public:
  path(Comm ranks, workload const& w, Vision vision, Text text)
      : work_(w), vision_(std::move(vision)), text_(std::move(text)), fuse_(ranks, {.token = image_token}), stack_(fuse_, {{0}}),
        patches_(w.pictures.frames(), sp::grained{sp::contiguous{}, w.pictures.grain()}, ranks),
        features_(sp::merged(patches_, w.pictures.grain())), tokens_(w.text_documents(), sp::contiguous{}, ranks),
        fused_(prepared()) {
    auto const at = sp::tower_rows(w.pictures, patches_);
    for (index_t r = 0; r < x_.size(); ++r)
      fill(x_, r, 1, r < w.prefix_rows() ? r : w.prefix_rows() + at[std::size_t(r - w.prefix_rows())]);
    for (index_t r = 0; r < dseen_.size() && r < w.prefix_rows() && ranks.rank() == 0; ++r) fill(dseen_, r, 2, r); // shares
    each_row(tokens_, [&](index_t row, index_t position) { fill(embedded_, row, 3, position); });
    each_row(fused_.batch(), [&](index_t row, index_t position) { fill(dout_, row, 4, position); });
  }

  /// Clock: clock(stage, body) calls body() and counts what it takes.
  template <class Clock>
  void step(Clock&& clock) {
    sp::context const c{scratch_, kept_};
    forward(c, clock);
    backward(c, clock);
  }

  /// Writes this rank's rows.
  void collect(results& r) {
    auto const at = sp::tower_rows(work_.pictures, patches_);
    index_t const cls = work_.prefix_rows();
    for (index_t row = patches_.part() == 0 ? 0 : cls; row < x_.size(); ++row)
      store(r.dpatches, row < cls ? row : cls + at[std::size_t(row - cls)], dq_, row);
    each_row(tokens_, [&](index_t row, index_t position) { store(r.dtext, position, dembedded_, row); });
    each_row(fused_.batch(), [&](index_t row, index_t position) { store(r.out, position, out_, row); });
  }

  /// At most at any time: tensors of the caller, and what the calls took.
  index_t tensor_bytes() const {
    std::size_t n = 0;
    for (auto const* t : {&x_, &seen_, &dseen_, &dq_, &dk_, &dv_, &visual_, &dvisual_, &dstack_, &embedded_, &dembedded_,
                          &hidden_, &dhidden_, &dkeys_, &out_, &dout_})
      n += t->memory.size() * sizeof(T);
    return index_t(n);
  }
  index_t call_bytes() const { return index_t(scratch_.peak_bytes() + kept_.peak_bytes()); }

  sp::batch const& patches() const { return patches_; }
  sp::batch const& features() const { return features_; }
  sp::batch const& tokens() const { return tokens_; }
  sp::batch const& fused() const { return fused_.batch(); }

private:
  sp::fused_batch prepared() const {
    sp::splice_sample const sample{work_.ids, work_.items};
    return fuse_.prepare({&sample, 1}, tokens_, features_, work_.pictures.merged_rows(), sp::zigzag{});
  }
  template <class F>
  static void each_row(sp::batch const& b, F&& f) {
    sp::for_each_row(b, [&](sp::local_row const& r) { f(r.row, sp::source_position(b, r)); });
  }
  static void fill(rows<T>& to, index_t row, unsigned tensor, index_t number) {
    for (index_t c = 0; c < width; ++c) to.flat()(row, c) = T(value(tensor, number, c));
  }
  static void store(std::vector<double>& to, index_t at, rows<T>& from, index_t row) {
    std::copy_n(&from.flat()(row, 0), width, to.begin() + at * width);
  }

  template <class Clock>
  void forward(sp::context<sp::inline_queue> const& c, Clock& clock) {
    clock(vision_forward, [&] {
      saved_vision_ =
          vision_.forward(seen_by_, c, {.q = x_.by_head(), .k = x_.by_head(), .v = x_.by_head(), .out = seen_.by_head()});
    });
    clock(rows_between, [&] { merge_patches(); });
    clock(fusion_forward,
          [&] { fuse_.forward(fused_, c, {.text = embedded_.flat(), .visual = visual_.flat(), .hidden = hidden_.flat()}); });
    clock(deepstack_forward, [&] { stack_.forward(fused_, c, visual_.flat(), hidden_.flat()); });
    clock(text_forward, [&] {
      saved_text_ = text_.forward(read_by_, c, {.q = hidden_.by_head(), .k = keys(), .v = values(), .out = out_.by_head()});
    });
  }
  template <class Clock>
  void backward(sp::context<sp::inline_queue> const& c, Clock& clock) {
    clock(text_backward, [&] {
      text_.backward(read_by_, c, std::move(saved_text_),
                     {.q = hidden_.by_head(),
                      .k = keys(),
                      .v = values(),
                      .out = out_.by_head(),
                      .dout = dout_.by_head(),
                      .dq = dhidden_.by_head(),
                      .dk = dkeys_.by_head(0, kv_heads),
                      .dv = dkeys_.by_head(kv_heads, kv_heads)});
    });
    clock(rows_between, [&] { add(dhidden_, dkeys_); });
    clock(deepstack_backward, [&] { stack_.backward(fused_, c, dhidden_.flat(), dstack_.flat()); });
    clock(fusion_backward, [&] {
      fuse_.backward(fused_, c, {.dhidden = dhidden_.flat(), .dtext = dembedded_.flat(), .dvisual = dvisual_.flat()});
    });
    clock(rows_between, [&] { unmerge_patches(); });
    clock(vision_backward, [&] {
      vision_.backward(seen_by_, c, std::move(saved_vision_),
                       {.q = x_.by_head(),
                        .k = x_.by_head(),
                        .v = x_.by_head(),
                        .out = seen_.by_head(),
                        .dout = dseen_.by_head(),
                        .dq = dq_.by_head(),
                        .dk = dk_.by_head(),
                        .dv = dv_.by_head()});
    });
    clock(rows_between, [&] { add(dq_, dk_), add(dq_, dv_); });
  }

  sp::view<T, 3> keys() { return hidden_.by_head(0, kv_heads); }          // (tokens, kv heads, dim)
  sp::view<T, 3> values() { return hidden_.by_head(kv_heads, kv_heads); } // (tokens, kv heads, dim)
  static void add(rows<T>& to, rows<T> const& from) {
    for (std::size_t i = 0; i < to.memory.size(); ++i) to.memory[i] += from.memory[i];
  }
  /// The projection: a feature is the mean of its patches.
  void merge_patches() {
    index_t const n = visual_.size(), g = merge * merge, cls = work_.prefix_rows();
    for (index_t i = 0; i < n * width; ++i) {
      T sum = 0;
      for (index_t p = 0; p < g; ++p) sum += seen_.flat()(cls + i / width * g + p, i % width);
      visual_.memory[std::size_t(i)] = sum / T(g);
    }
  }
  void unmerge_patches() {
    index_t const n = visual_.size(), g = merge * merge, cls = work_.prefix_rows();
    for (index_t i = 0; i < n * width; ++i)
      for (index_t p = 0; p < g; ++p)
        dseen_.flat()(cls + i / width * g + p, i % width) =
            (dvisual_.memory[std::size_t(i)] + dstack_.memory[std::size_t(i)]) / T(g);
  }

  workload const& work_;
  Vision vision_;
  Text text_;
  sp::fusion<sp::splice::placeholder, Comm> fuse_;
  sp::deepstack<Comm> stack_;
  sp::batch patches_, features_, tokens_;
  sp::fused_batch fused_;
  typename Vision::prepared seen_by_ = vision_.prepare(patches_);
  typename Text::prepared read_by_ = text_.prepare(fused_.batch(), fused_.mask());
  typename Vision::template saved<T> saved_vision_{};
  typename Text::template saved<T> saved_text_{};
  rows<T> x_{vision_.rows(patches_)}, seen_ = x_, dseen_ = x_, dq_ = x_, dk_ = x_, dv_ = x_;
  rows<T> visual_{features_.tokens()}, dvisual_ = visual_, dstack_ = visual_;
  rows<T> embedded_{tokens_.tokens()}, dembedded_ = embedded_;
  rows<T> hidden_{fused_.tokens()}, dhidden_ = hidden_, dkeys_ = hidden_, out_ = hidden_, dout_ = hidden_;
  sp::pool scratch_, kept_;
};

} // namespace multimodal
