// Trains the model by the ranks of one plan, whatever they are. Everything that crosses ranks is group_work.hpp.
// What a rank does is written once, whatever the plan and wherever it computes.
#pragma once

#include "model/decoder.hpp"

#include <sp/mesh.hpp>

#include "model/optimizer.hpp"
#include "place.hpp"
#include "ranks.hpp"
#include "training/delta_traffic.hpp"
#include "training/group_work.hpp"
#include "training/outcome.hpp"
#include "training/plans.hpp"
#include "training/progress.hpp"
#include "training/slopes.hpp"

namespace trainer {

template <class E>
sp::view<E, 1> view_of(std::vector<E>& v) {
  return {v.data(), {index_t(v.size())}};
}
template <class E>
sp::view<E const, 1> view_of(std::vector<E> const& v) {
  return {v.data(), {index_t(v.size())}};
}

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
  using products = decltype(std::declval<place const&>().products(std::declval<ranks::communicator const&>()));

  rank_trainer(plan const& how, settings const& asked, corpus const& text, int rank, group_work<T>& group, products multiply)
      : plan_(how), settings_(asked), rank_(rank), group_(group),
        mesh_(sp::axis::data{how.data}, sp::axis::ring{how.ring}, sp::axis::ulysses{how.ulysses}),
        text_(text, asked.stream, asked.seed), model_(asked.model, asked.seed, std::move(multiply)),
        optimizer_(asked.weight_decay, asked.clip, model_.table()) {}

  /// Rank 0 reports.
  void run(int steps, outcome& result, progress& show) {
    bool reports = rank_ == 0;
    auto start = std::chrono::steady_clock::now();
    for (int s = 0; s < steps; ++s) {
      step_text whole = text_.next();
      double loss = loss_and_gradients(share(whole, mesh_.data_rank(rank_), mesh_.data_size()));
      double norm = norm_of<T>(model_.gradients);
      if (reports) {
        result.losses.push_back(loss);
        result.norms.push_back(norm);
        if (s == 0) result.gradients.assign(model_.gradients.begin(), model_.gradients.end());
        result.tokens += double(whole.size());
        result.bytes_expected += double(expected_bytes(whole));
        show.step(s, loss, double(whole.size()));
      }
      optimizer_.step(model_.weights, model_.gradients, norm, learning_rate(settings_.learning_rate, s, steps));
    }
    if (reports) result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  /// Of one rank: gradients against differences of the loss, over the beginnings of a few documents.
  double gradient_error() {
    step_text const few = beginnings(text_.next(), 4, 24);
    static_cast<void>(loss_and_gradients(few));
    return trainer::gradient_error(model_.table(), model_.weights, model_.gradients,
                                   [&] { return with_loss(few, [](auto&&...) {}); });
  }

private:
  /// Forward and backward of this rank's tokens; afterwards every rank holds the gradient of the mean loss over all tokens.
  double loss_and_gradients(step_text const& mine) {
    double const loss = with_loss(mine, [&](local_tokens const& rows, std::vector<T> const& dlosses, meeting<T> const& with) {
      model_.backward(rows, dlosses, with);
    });
    group_.sum(model_.gradients);
    return loss;
  }
  /// Forward; then go_on(rows, gradients of their losses, where tokens meet). The loss.
  template <class F>
  double with_loss(step_text const& mine, F&& go_on) {
    sp::batch batch = make_batch(plan_, documents_of(mine), mesh_.sequence_rank(rank_));
    local_tokens rows = rows_of(batch, mine);
    meeting<T> const with = group_.meet(batch);
    std::vector<T> losses = model_.forward(rows, with), dlosses(losses.size());
    double const loss = group_.loss(losses, rows.labels, dlosses);
    go_on(rows, dlosses, with);
    return loss;
  }

  /// What the closed form says all ranks together send for this step.
  index_t expected_bytes(step_text const& whole) const {
    index_t bytes = 0;
    for (int d = 0; d < plan_.data; ++d)
      bytes += step_bytes(plan_, make_batch(plan_, documents_of(share(whole, d, plan_.data)), 0).layout(), settings_.model,
                          bytes_of(settings_.type_of<T>()));
    return bytes;
  }

  plan plan_;
  settings settings_;
  int rank_;
  group_work<T>& group_;
  sp::mesh mesh_;
  reader text_;
  decoder<T, products> model_;
  adamw<T> optimizer_;
};

/// Trains by one plan in one number type. Instantiated in run_float.cpp and run_double.cpp.
template <class T>
outcome run_plan(ranks& us, plan const& how, settings const& asked, corpus const& text, int steps, progress& show) {
  outcome result;
  result.strategy = how.name;
  result.type = asked.type_of<T>();
  result.ranks = how.ranks();
  show.begin(how.name + ", " + result.type, steps);
  place const here(asked, ranks::in_process(how.ranks()));
  auto used = us.run(how.ranks(), [&](ranks::communicator const& world) {
    auto const group = here.group_of<T>(world, how, asked);
    rank_trainer<T> rank(how, asked, text, world.rank(), *group, here.products(world));
    rank.run(steps, result, show);
    return group->used();
  });
  for (usage const& u : used) {
    result.bytes_counted += double(u.bytes);
    result.workspace = std::max(result.workspace, u.memory);
  }
  return result;
}

} // namespace trainer
