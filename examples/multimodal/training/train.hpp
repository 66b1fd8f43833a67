// Trains the model by the ranks of one plan. What a rank does is written once, whatever the plan.
// The model is made for one rank, and then wrapped where there are more.
#pragma once

#include <chrono>

#include "multimodal/training/group.hpp"
#include "multimodal/training/outcome.hpp"
#include "multimodal/training/run.hpp"
#include "multimodal/training/traffic.hpp"
#include "trainer/model/optimizer.hpp"
#include "trainer/training/progress.hpp"
#include "trainer/training/slopes.hpp"

namespace multimodal {

/// The texts of a step. In some steps no text has a picture; the tower takes part in what ranks do together all the same.
inline std::vector<sample> texts_of(questioner& from, int number, int count) {
  return number % 16 == 3 ? from.next_without_pictures(count) : from.next(count);
}

/// One rank of a plan.
template <class T, class Comm>
class rank_trainer {
public:
  rank_trainer(Comm const& world, plan const& how, settings const& asked, digit_sets const& digits)
      : rank_(world.rank()), plan_(how), settings_(asked), group_(world, how, asked), questions_(digits.train, asked.seed),
        held_back_(digits.held_back, asked.seed + 1), model_(asked.model, asked.seed),
        optimizer_(asked.weight_decay, asked.clip, model_.table()) {
    if (how.ranks() > 1) sp::auto_wrap(model_, group_.sequence(), sp::cpu{}, wrap_options_of(how));
  }

  /// The first `steps` of a training of `all` steps. Rank 0 reports.
  void run(int steps, int all, outcome& result, trainer::progress& show) {
    auto const start = std::chrono::steady_clock::now();
    for (int s = 0; s < steps; ++s) {
      auto const whole = texts_of(questions_, s, settings_.samples);
      double const loss = loss_and_gradients(whole);
      double const norm = trainer::norm_of<T>(model_.gradients);
      if (rank_ == 0) {
        note(whole, s, loss, norm, result);
        show.step(s, loss, result.tokens - seen_);
        seen_ = result.tokens;
      }
      optimizer_.step(model_.weights, model_.gradients, norm, trainer::learning_rate(settings_.learning_rate, s, all));
    }
    used_ = group_.used();
    if (rank_ == 0) result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

  /// What the ranks together answer to questions on held-back pictures. Rank 0 reports.
  void ask(int count, outcome& result) {
    constexpr std::size_t longest = 8; // characters of an answer
    auto const all = held_back_.next_with_pictures(count);
    int const first = index_of_share(all.size(), group_.data_rank());
    step const s(share(all, group_.data_rank(), plan_.data), settings_);
    step_joints<T, Comm> const at(group_, s, plan_);
    local_rows<T> const rows = rows_of<T>(s, at.batches(), at.fused_rows(), settings_.model);
    static_cast<void>(model_.forward(rows, at));
    auto const best = model_.answers();
    std::vector<T> written(all.size() * longest); // token + 1; the other ranks' are 0
    sp::for_each_row(at.fused_rows().batch(), [&](sp::local_row const& r) {
      auto const row = std::size_t(r.row);
      if (rows.labels[row] == ignored) return;
      sp::document const& d = at.fused_rows().documents()[r.document];
      index_t const from_end = d.count - 2 - r.offset;
      written[(std::size_t(first) + r.document) * longest + std::size_t(from_end)] = T(best[row] + 1);
    });
    group_.sum(written);
    for (std::size_t i = 0; i < all.size() && rank_ == 0; ++i) {
      answered a{all[i], ""};
      for (std::size_t k = a.asked.answer.size(); k-- > 0;) {
        auto const token = index_t(written[i * longest + k]) - 1;
        a.given += token >= 0 && token < picture_token ? characters[token] : '?';
      }
      result.answers.push_back(std::move(a));
    }
  }

  usage used() const { return used_; }

  double gradient_error() {
    auto const whole = questions_.next(6);
    static_cast<void>(loss_and_gradients(whole));
    return trainer::gradient_error(model_.table(), model_.weights, model_.gradients, [&] { return loss_of(whole); });
  }

private:
  double loss_of(std::vector<sample> const& whole) {
    step const s(whole, settings_);
    step_joints<T, Comm> const at(group_, s, plan_);
    local_rows<T> rows = rows_of<T>(s, at.batches(), at.fused_rows(), settings_.model);
    std::vector<T> losses = model_.forward(rows, at), dlosses(losses.size());
    return group_.loss(losses, rows.labels, dlosses);
  }
  int index_of_share(std::size_t n, int part) const { return int(n) * part / plan_.data; }

  /// Forward and backward of this rank's rows; afterwards every rank holds the gradient of the mean loss over all labels.
  double loss_and_gradients(std::vector<sample> const& whole) {
    step const s(share(whole, group_.data_rank(), plan_.data), settings_);
    step_joints<T, Comm> const at(group_, s, plan_);
    local_rows<T> rows = rows_of<T>(s, at.batches(), at.fused_rows(), settings_.model);
    std::vector<T> losses = model_.forward(rows, at), dlosses(losses.size());
    double const loss = group_.loss(losses, rows.labels, dlosses);
    model_.backward(rows, dlosses, at);
    group_.sum(model_.gradients);
    return loss;
  }

  /// Numbers of a step, and what the closed forms say all ranks together send in it.
  void note(std::vector<sample> const& whole, int number, double loss, double norm, outcome& result) const {
    result.losses.push_back(loss);
    result.norms.push_back(norm);
    if (number == 0) result.gradients.assign(model_.gradients.begin(), model_.gradients.end());
    for (int d = 0; d < plan_.data; ++d) {
      step const s(share(whole, d, plan_.data), settings_);
      step_batches const of(s, plan_, place{0, plan_.sequence()});
      auto const sources = sources_of(s, settings_);
      result.tokens += double(sources.size());
      result.patches += double(s.images.patches());
      with_sharding(plan_, [&](auto const& how) {
        sp::layout const fused(fused_documents(s), how, plan_.sequence());
        result.bytes_expected += double(step_bytes(plan_, s, of, fused, settings_, sizeof(T)));
      });
    }
  }
  /// Lengths of the samples behind the splice, counted by hand.
  sp::documents fused_documents(step const& s) const {
    std::vector<index_t> cu_seqlens{0};
    for (std::size_t i = 0; i < s.samples.size(); ++i) {
      step const one({s.samples[i]}, settings_);
      cu_seqlens.push_back(cu_seqlens.back() + index_t(sources_of(one, settings_).size()));
    }
    return sp::documents::packed(cu_seqlens);
  }
  struct place {
    int at, of;
    int rank() const { return at; }
    int size() const { return of; }
  };

  int rank_;
  plan plan_;
  settings settings_;
  rank_group<T, Comm> group_;
  questioner questions_, held_back_;
  model<T> model_;
  trainer::adamw<T> optimizer_;
  usage used_;
  double seen_ = 0;
};

/// Trains by one plan in one number type. Instantiated in run_float.cpp and run_double.cpp.
template <class T>
outcome run_plan(trainer::ranks& us, plan const& how, settings const& asked, digit_sets const& digits, int steps, bool ask,
                 trainer::progress& show) {
  outcome result;
  result.strategy = how.name;
  result.type = sizeof(T) == 8 ? "double" : "float";
  result.ranks = how.ranks();
  show.begin(how.name + ", " + result.type, steps);
  auto const used = us.run(how.ranks(), [&](trainer::ranks::communicator const& world) {
    rank_trainer<T, trainer::ranks::communicator> rank(world, how, asked, digits);
    rank.run(steps, asked.steps, result, show);
    if (ask) rank.ask(asked.questions, result);
    return rank.used();
  });
  for (usage const& u : used) {
    result.bytes_counted += double(u.bytes);
    result.workspace = std::max(result.workspace, u.memory);
  }
  return result;
}

} // namespace multimodal
