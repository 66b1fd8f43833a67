// train.json: all numbers of a run, so that anybody can judge them again.
// Curves are complete and unrounded; numbers that must agree stand beside the bound they are held to.
#include <fstream>

#include <nlohmann/json.hpp>

#include "report/report.hpp"
#include "training/compare.hpp"

namespace trainer {
namespace {

nlohmann::ordered_json to_json(shape const& m, index_t parameters) {
  nlohmann::ordered_json j = {
      {"parameters", parameters}, {"dim", m.dim},           {"layers", m.layers}, {"q_heads", m.q_heads},
      {"kv_heads", m.kv_heads},   {"head_dim", m.head_dim}, {"hidden", m.hidden}, {"vocabulary", shape::vocabulary}};
  delta_shape const& d = m.delta;
  if (m.delta_layers() > 0)
    j["gated_delta_nets"] = {{"layers", m.delta_layers()}, {"k_heads", d.k_heads},     {"v_heads", d.v_heads},
                             {"key_dim", d.key_dim},       {"value_dim", d.value_dim}, {"taps", d.taps}};
  return j;
}

nlohmann::ordered_json to_json(outcome const& o, settings const& asked) {
  nlohmann::ordered_json j;
  j["strategy"] = o.strategy;
  j["type"] = o.type;
  j["ranks"] = o.ranks;
  j["final_loss_mean_of_last_3"] = final_loss(o);
  j["difference"] = {
      {"loss", o.loss_difference}, {"gradient_norm", o.norm_difference}, {"first_gradients", o.gradient_difference}};
  j["allowed_difference"] = bound_of(o.type);
  j["compared_steps"] = std::min(o.losses.size(), std::size_t(asked.compared_steps));
  j["tokens_per_second"] = o.tokens_per_second();
  j["bytes_per_token"] = {{"counted", o.sent_per_token()}, {"closed_form", o.expected_per_token()}};
  j["peak_attention_bytes_per_rank"] = o.workspace;
  j["imbalance"] = o.imbalance;
  j["losses"] = o.losses;
  j["gradient_norms"] = o.norms;
  return j;
}

} // namespace

void write_json(report const& r, std::filesystem::path const& file) {
  nlohmann::ordered_json j;
  j["model"] = to_json(r.asked.model, r.parameters);
  j["text"] = {{"files", r.text->files},
               {"binary_files_skipped", r.text->binary},
               {"bytes", r.text->bytes},
               {"documents", r.text->documents.size()}};
  j["tokens_per_step"] = r.asked.stream;
  j["first_step_cu_seqlens"] = r.first_step.cu_seqlens;
  j["seed"] = r.asked.seed;
  j["ranks_are"] = r.ranks_are;
  j["threads_per_rank"] = r.asked.workers;
  j["cores"] = r.cores;
  j["seconds"] = r.seconds;
  if (r.slopes)
    j["gradients_against_differences_of_the_loss"] = {{"error", *r.slopes}, {"allowed", bound_of_slopes_of(r.asked.model)}};
  for (std::size_t i = 0; i < r.outcomes.size(); ++i) {
    j["runs"].push_back(to_json(r.outcomes[i], r.asked));
    if (r.asked.model.delta_layers() > 0) j["runs"].back()["gated_delta_nets_by"] = name_of(r.plans[i % r.plans.size()].delta);
  }
  std::ofstream out(file);
  out << j.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n" << std::flush;
  if (!out) throw std::runtime_error("cannot write " + file.string());
}

} // namespace trainer
