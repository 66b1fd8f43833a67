// train.json: all numbers of a run, so that anybody can judge them again.
// Curves are complete and unrounded; numbers that must agree stand beside the bound they are held to.
#include <fstream>

#include <nlohmann/json.hpp>

#include "multimodal/report/report.hpp"
#include "multimodal/training/compare.hpp"

namespace multimodal {
namespace {

nlohmann::ordered_json to_json(outcome const& o, settings const& asked) {
  nlohmann::ordered_json j;
  j["strategy"] = o.strategy;
  j["type"] = o.type;
  j["ranks"] = o.ranks;
  j["final_loss_mean_of_last_3"] = trainer::final_loss(o);
  if (!o.answers.empty()) j["right_answers"] = o.accuracy();
  j["difference"] = {
      {"loss", o.loss_difference}, {"gradient_norm", o.norm_difference}, {"first_gradients", o.gradient_difference}};
  j["allowed_difference"] = trainer::bound_of(o.type);
  j["allowed_difference_of_gradients"] = bound_of_gradients(o.type);
  j["compared_steps"] = std::min(o.losses.size(), std::size_t(asked.compared_steps));
  j["rows_per_second"] = o.tokens_per_second();
  j["patches_per_second"] = o.patches_per_second();
  j["rows"] = o.tokens;
  j["patches"] = o.patches;
  j["bytes"] = {{"counted", o.bytes_counted}, {"closed_form", o.bytes_expected}};
  j["peak_bytes_per_rank"] = o.workspace;
  j["losses"] = o.losses;
  j["gradient_norms"] = o.norms;
  for (answered const& a : o.answers) j["answers"].push_back({a.asked.question, a.asked.answer, a.given});
  return j;
}

nlohmann::ordered_json to_json(tower_shape const& t) {
  return {{"pixels_of_a_patch", t.pixels_of_patch()},
          {"dim", t.dim},
          {"layers", t.layers},
          {"heads", t.heads},
          {"head_dim", t.head_dim},
          {"class_tokens", t.prefix},
          {"positions", t.rotary ? "rotary" : "learned"}};
}

nlohmann::ordered_json to_json(model_shape const& m, index_t parameters) {
  nlohmann::ordered_json j{{"parameters", parameters}, {"merge", m.merge}, {"deepstack_layers", m.deepstack}};
  j["tower"] = to_json(m.tower);
  j["decoder"] = {
      {"dim", m.dim},           {"layers", m.layers}, {"q_heads", m.q_heads},       {"kv_heads", m.kv_heads},
      {"head_dim", m.head_dim}, {"hidden", m.hidden}, {"vocabulary", m.vocabulary}, {"position_axes", m.three_axes ? 3 : 1}};
  return j;
}

} // namespace

void write_json(report const& r, std::filesystem::path const& file) {
  nlohmann::ordered_json j;
  j["splice"] = name_of(r.asked.splice);
  j["model"] = to_json(r.asked.model, r.parameters);
  j["pictures"] = {{"source", r.digits->source}, {"train", r.digits->train.size()}, {"held_back", r.digits->held_back.size()}};
  j["samples_per_step"] = r.asked.samples;
  j["questions"] = r.asked.questions;
  j["seed"] = r.asked.seed;
  j["required_right_answers"] = required_accuracy(r.asked, r.drawn());
  j["gradients_against_differences_of_the_loss"] = {{"error", r.slopes}, {"allowed", trainer::bound_of_slopes}};
  j["found"] = r.found;
  j["ranks_are"] = r.ranks_are;
  j["cores"] = r.cores;
  j["seconds"] = r.seconds;
  for (outcome const& o : r.outcomes) j["runs"].push_back(to_json(o, r.asked));
  std::ofstream out(file);
  out << j.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n" << std::flush;
  if (!out) throw std::runtime_error("cannot write " + file.string());
}

} // namespace multimodal
