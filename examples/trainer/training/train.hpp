// Trains the model by the ranks of one plan, whatever they are. Everything that crosses ranks is an object of the library:
// mesh, batch, attention, loss, all-reduce. What a rank does is written once, whatever the plan.
#pragma once

#include "model/decoder.hpp"

#include <optional>

#include <sp/counting.hpp>
#include <sp/cpu.hpp>
#include <sp/gather_loss.hpp>
#include <sp/mesh.hpp>
#include <sp/ulysses.hpp>
#include <sp/workers.hpp>

#include "model/optimizer.hpp"
#include "ranks.hpp"
#include "training/outcome.hpp"
#include "training/plans.hpp"
#include "training/progress.hpp"
#include "training/traffic.hpp"

namespace trainer {

template <class E, class Allocator>
sp::view<E, 1> view_of(std::vector<E, Allocator>& v) {
  return {v.data(), {index_t(v.size())}};
}
template <class E, class Allocator>
sp::view<E const, 1> view_of(std::vector<E, Allocator> const& v) {
  return {v.data(), {index_t(v.size())}};
}

/// Memory of one rank's attention: given back within a call, and kept from forward to backward.
struct attention_memory {
  sp::pool scratch, kept;
  index_t peak() const { return index_t(scratch.peak_bytes() + kept.peak_bytes()); }
};

/// The model's attention through an attention object of the library, for one step. The geometry is prepared once for all layers.
template <class T, class Object>
class prepared_attention final : public attention<T> {
public:
  prepared_attention(Object const& object, sp::batch const& batch, attention_memory& memory, index_t layers)
      : object_(object), prepared_(object.prepare(batch)), memory_(memory), saved_(std::size_t(layers)) {}

  void forward(index_t layer, sp::qkv_views<T> x, sp::view<T, 3> out) override {
    saved_[std::size_t(layer)] = object_.forward(prepared_, context(layer), x.q, x.k, x.v, out);
  }
  void backward(index_t layer, sp::qkv_views<T> x, sp::view<T, 3> out, sp::view<T, 3> dout, sp::qkv_views<T> d) override {
    object_.backward(prepared_, context(layer), std::move(*saved_[std::size_t(layer)]), x.q, x.k, x.v, out, dout, d.q, d.k, d.v);
  }

private:
  sp::context<> context(index_t layer) { return {memory_.scratch, memory_.kept, sp::random_key{0, std::uint64_t(layer)}}; }

  Object const& object_;
  typename Object::prepared prepared_;
  attention_memory& memory_;
  std::vector<std::optional<typename Object::template saved<T>>> saved_;
};

/// This rank's rows of its data rank's share of a step. Labels are shifted in the whole stream first, then cut: the label of a
/// shard's last token is the first token of somebody else's.
inline local_tokens rows_of(sp::batch const& batch, step_text const& text) {
  auto n = std::size_t(batch.tokens());
  local_tokens rows{std::vector<std::int64_t>(n), std::vector<std::int64_t>(n), std::vector<std::int64_t>(n)};
  sp::split(batch, view_of(text.tokens), view_of(rows.tokens));
  sp::shifted_labels(batch, view_of(text.tokens), view_of(rows.labels), ignored);
  sp::positions(batch, view_of(rows.positions)); // rotary positions start again in every document
  return rows;
}

/// One rank of a plan.
template <class T>
class rank_trainer {
public:
  rank_trainer(plan const& how, settings const& asked, corpus const& text, ranks::communicator const& world,
               sp::workers const& workers)
      : plan_(how), settings_(asked), world_(world), kernel_(workers, sp::cpu{}),
        mesh_(sp::axis::data{how.data}, sp::axis::ring{how.ring}, sp::axis::ulysses{how.ulysses}),
        text_(text, asked.stream, asked.seed), model_(asked.model, asked.seed), optimizer_(asked, model_.table()),
        loss_(world, sp::summed{}, sp::loss_options{.reduce = sp::reduction::mean, .ignore_index = ignored}) {}

  /// Picks the attention object that the plan names and trains with it. Rank 0 reports.
  void run(int steps, sp::ledger& sent, outcome& result, progress& show) {
    sp::counting counted{world_, sent}; // attention sends through this one, so the ledger holds attention's bytes only
    auto ring = mesh_.ring(counted);
    auto ulysses = mesh_.ulysses(counted);
    sp::attention_options options{.mask = sp::causal(), .schedule = plan_.schedule};
    if (plan_.ulysses == 1)
      train(sp::ring_attention{ring, kernel_, options}, steps, result, show);
    else if (plan_.ring == 1)
      train(sp::ulysses_attention{ulysses, kernel_, options}, steps, result, show);
    else // Ulysses outside, ring inside
      train(sp::ulysses_attention{ulysses, sp::ring_attention{ring, kernel_, options}}, steps, result, show);
  }

  index_t peak_memory() const { return memory_.peak(); }

private:
  template <class Object>
  void train(Object const& object, int steps, outcome& result, progress& show) {
    bool reports = world_.rank() == 0;
    auto start = std::chrono::steady_clock::now();
    for (int s = 0; s < steps; ++s) {
      step_text whole = text_.next();
      double loss = loss_and_gradients(object, share(whole, mesh_.data_rank(world_.rank()), mesh_.data_size()));
      double norm = norm_of<T>(model_.gradients);
      if (reports) {
        result.losses.push_back(loss);
        result.norms.push_back(norm);
        if (s == 0) result.gradients.assign(model_.gradients.begin(), model_.gradients.end());
        result.tokens += double(whole.size());
        result.bytes_expected += double(expected_bytes(whole));
        show.step(s, loss, double(whole.size()));
      }
      optimizer_.step(model_.weights, model_.gradients, norm, learning_rate(settings_, s, steps));
    }
    if (reports) result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  /// Forward and backward of this rank's tokens; afterwards every rank holds the gradient of the mean loss over all tokens.
  template <class Object>
  double loss_and_gradients(Object const& object, step_text const& mine) {
    sp::batch batch = make_batch(plan_, documents_of(mine), mesh_.sequence_rank(world_.rank()));
    local_tokens rows = rows_of(batch, mine);
    prepared_attention<T, Object> attend(object, batch, memory_, settings_.model.layers);

    std::vector<T> const losses = model_.forward(rows, attend);
    std::vector<std::int64_t> const& labels = rows.labels;
    sp::loss_result loss = loss_.forward(view_of(losses), view_of(labels), scratch_); // the same number on every rank

    std::vector<T> dlosses(losses.size());
    loss_.backward(loss, view_of(labels), view_of(dlosses));
    model_.backward(rows, dlosses, attend);
    sp::all_reduce(world_, view_of(model_.gradients), scratch_); // `summed`: one sum over data and sequence ranks, no factor
    return loss.loss;
  }

  /// What the closed form says all ranks together send for this step.
  index_t expected_bytes(step_text const& whole) const {
    index_t bytes = 0;
    for (int d = 0; d < plan_.data; ++d)
      bytes += attention_bytes(plan_, make_batch(plan_, documents_of(share(whole, d, plan_.data)), 0).layout(), settings_.model,
                               sizeof(T));
    return bytes;
  }

  plan plan_;
  settings settings_;
  ranks::communicator world_;
  sp::on_queue<sp::workers, sp::cpu<>> kernel_; // tiles of attention are shared out among the threads of this rank
  sp::mesh mesh_;
  reader text_;
  decoder<T> model_;
  adamw<T> optimizer_;
  sp::gather_loss<ranks::communicator, sp::summed> loss_;
  attention_memory memory_;
  sp::pool scratch_; // of everything that is not attention
};

/// Trains by one plan in one number type. Instantiated in run_float.cpp and run_double.cpp.
template <class T>
outcome run_plan(ranks& us, plan const& how, settings const& asked, corpus const& text, int steps, progress& show) {
  outcome result;
  result.strategy = how.name;
  result.type = sizeof(T) == 8 ? "double" : "float";
  result.ranks = how.ranks();
  show.begin(how.name + ", " + result.type, steps);
  struct usage {
    index_t bytes = 0, memory = 0;
  };
  int const here = ranks::in_process(how.ranks());
  sp::workers const workers{asked.workers * here, {.ranks = here}}; // one set of threads for all ranks of this process
  auto used = us.run(how.ranks(), [&](ranks::communicator const& world) {
    sp::ledger sent;
    rank_trainer<T> rank(how, asked, text, world, workers);
    rank.run(steps, sent, result, show);
    return usage{sent.total().bytes_sent, rank.peak_memory()};
  });
  for (usage const& u : used) {
    result.bytes_counted += double(u.bytes);
    result.workspace = std::max(result.workspace, u.memory);
  }
  return result;
}

} // namespace trainer
