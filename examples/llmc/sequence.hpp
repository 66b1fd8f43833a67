// What a rank needs from sp, in terms of llm.c's own arrays: its rows, attention, loss, the sum of gradients, one row for sampling.
// A rank holds rows() of the B x T tokens; whatever llm.c does for each token alone runs on them unchanged, as a batch of 1 x rows().
#pragma once

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <vector>

#include <sp/cpu.hpp>
#include <sp/gather_loss.hpp>
#include <sp/ring.hpp>

namespace llmc {

/// What every rank is told when it starts.
template <class Communicator>
struct job_of {
  Communicator ranks;   ///< this rank among all
  int end_of_text = -1; ///< the token that begins a document, or -1: attention sees the whole row of T tokens
};

template <class Communicator>
class sequence_of {
public:
  using attention_type = sp::ring_attention<Communicator, sp::cpu<>>;

  /// B rows of T tokens, L layers. Each rank gets a chunk from the front and one from the back of the stream of B T tokens: equal work
  /// under a causal mask, and the same number of rows in every step, whatever documents it holds.
  sequence_of(job_of<Communicator> const& job, int B, int T, int L)
      : job_(job), ranks_(job.ranks), B_(B), T_(T),
        batch_(sp::documents::rectangular(B, T), sp::zigzag{sp::scope::stream}, ranks_),
        attention_(ranks_, sp::cpu{}, {.mask = sp::causal()}), loss_(ranks_, sp::summed{}), saved_(std::size_t(L)),
        inputs_(std::size_t(rows()) + 1), targets_(std::size_t(rows()) + 1), positions_(std::size_t(rows()) + 1) {
    sp::positions(batch_, sp::view<sp::index_t, 1>(positions_.data(), {rows()}));
  }

  sp::index_t rows() const { return batch_.tokens(); }
  int* inputs() { return inputs_.data(); }
  /// NULL means "no targets" to llm.c: a rank without rows must not say so, which is why the arrays hold one entry more.
  int* targets() { return has_targets_ ? targets_.data() : nullptr; }
  sp::index_t const* positions() const { return positions_.data(); } ///< t of every row, counted from the begin of its document

  /// The loader's (B, T) arrays, the same on every rank -> this rank's rows. The loader has shifted the targets, before the cut.
  sequence_of& load(int const* all_inputs, int const* all_targets) {
    find_documents(all_inputs);
    has_targets_ = all_targets != nullptr;
    take(all_inputs, inputs_);
    if (has_targets_) take(all_targets, targets_);
    return *this;
  }

  // The two calls below stand where llm.c calls functions of these names. qkv (rows, 3C) is packed: queries, keys, values.
  void attention_forward(int l, float* out, float* qkv, int C, int NH) {
    auto x = heads_of_qkv(qkv, C, NH);
    saved_[std::size_t(l)] = attention_.forward(batch_, {.q = x.q, .k = x.k, .v = x.v, .out = heads(out, C, NH)});
  }
  void attention_backward(int l, float* dqkv, float* dout, float* qkv, float* out, int C, int NH) {
    auto x = heads_of_qkv(qkv, C, NH), d = heads_of_qkv(dqkv, C, NH);
    attention_.backward(
        batch_, std::move(saved_[std::size_t(l)]),
        {.q = x.q, .k = x.k, .v = x.v, .out = heads(out, C, NH), .dout = heads(dout, C, NH), .dq = d.q, .dk = d.k, .dv = d.v});
  }

  /// The mean over all tokens of all ranks, the same number on every rank; and its gradient for this rank's rows.
  float loss_forward(float* losses) {
    result_ = loss_.forward(sp::view<float, 1>(losses, {rows()}), sp::view<int, 1>(targets_.data(), {rows()}));
    return float(result_.loss);
  }
  void loss_backward(float* dlosses) {
    loss_.backward(result_, sp::view<int, 1>(targets_.data(), {rows()}), sp::view<float, 1>(dlosses, {rows()}));
  }

  /// Parameter gradients, summed over the ranks; by pieces, so that scratch stays small however many parameters there are.
  void sum_gradients(float* grads, std::size_t count) {
    constexpr std::size_t piece = std::size_t(1) << 16;
    for (std::size_t i = 0; i < count; i += piece)
      sp::all_reduce(ranks_, sp::view<float, 1>(grads + i, {sp::index_t(std::min(piece, count - i))}), scratch_, "sum_gradients");
  }

  /// Row t of sequence b of a (B, T, width) tensor, from the rank that holds it to all: sampling draws the same token everywhere.
  float* row_of(float* tensor, int b, int t, int width) {
    sp::owner const from = sp::owner_of(batch_, sp::index_t(b) * T_ + t);
    row_.resize(std::size_t(width));
    if (from.part == ranks_.rank()) std::copy_n(tensor + from.row * width, width, row_.data());
    sp::piece const row = sp::as_piece(sp::view<float, 1>(row_.data(), {width}));
    sp::broadcast(ranks_, {&row, 1}, from.part, "row_of");
    return row_.data();
  }

private:
  auto heads_of_qkv(float* x, int C, int NH) const { return sp::split_qkv(sp::view<float, 2>(x, {rows(), 3 * C}), NH, NH); }
  auto heads(float* x, int C, int NH) const { return sp::view<float, 3>(x, {rows(), NH, C / NH}); } // (rows, NH, head size)

  void take(int const* all, std::vector<int>& mine) const {
    sp::split(batch_, sp::view<int const, 1>(all, {batch_.source().length()}), sp::view<int, 1>(mine.data(), {rows()}));
  }

  /// A document begins where a row of T tokens does, and at every end-of-text token. A new batch only where they have changed.
  void find_documents(int const* inputs) {
    if (job_.end_of_text < 0) return;
    std::vector<sp::index_t> offsets;
    for (sp::index_t i = 0; i < sp::index_t(B_) * T_; ++i)
      if (i % T_ == 0 || inputs[i] == job_.end_of_text) offsets.push_back(i);
    offsets.push_back(sp::index_t(B_) * T_);
    sp::packed documents{std::span<sp::index_t const>(offsets)};
    if (documents == batch_.source()) return;
    batch_ = sp::batch(documents, sp::zigzag{sp::scope::stream}, ranks_);
    sp::positions(batch_, sp::view<sp::index_t, 1>(positions_.data(), {rows()}));
  }

  job_of<Communicator> job_;
  Communicator ranks_;
  int B_, T_;
  sp::batch batch_;
  attention_type attention_;
  sp::gather_loss<Communicator, sp::summed> loss_; // parameter gradients will be summed over ranks
  sp::pool scratch_;
  std::vector<typename attention_type::template saved<float>> saved_; // per layer, from forward to backward
  std::vector<int> inputs_, targets_;
  std::vector<sp::index_t> positions_;
  std::vector<float> row_;
  sp::loss_result result_;
  bool has_targets_ = false;
};

/// Rank 0 reports progress; the others compute the same numbers and are silent.
inline thread_local bool speaks = true;

[[gnu::format(printf, 1, 2)]] inline void say(char const* format, ...) {
  if (!speaks) return;
  va_list values;
  va_start(values, format);
  std::vprintf(format, values);
  va_end(values);
}

} // namespace llmc
