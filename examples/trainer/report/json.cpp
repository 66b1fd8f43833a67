// train.json: all numbers of a run, so that anybody can judge them again.
// Curves are complete and unrounded; numbers that must agree stand beside the bound they are held to.
#include <fstream>

#include <nlohmann/json.hpp>

#include "report/report.hpp"
#include "training/compare.hpp"

namespace trainer {
namespace {

nlohmann::ordered_json to_json(outcome const& o) {
  nlohmann::ordered_json j;
  j["strategy"] = o.strategy;
  j["type"] = o.type;
  j["ranks"] = o.ranks;
  j["final_loss_mean_of_last_3"] = final_loss(o);
  j["difference"] = {
      {"loss", o.loss_difference}, {"gradient_norm", o.norm_difference}, {"first_gradients", o.gradient_difference}};
  j["allowed_difference"] = bound_of(o.type);
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
  shape const& m = r.asked.model;
  nlohmann::ordered_json j;
  j["model"] = {{"parameters", r.parameters}, {"dim", m.dim},           {"layers", m.layers}, {"q_heads", m.q_heads},
                {"kv_heads", m.kv_heads},     {"head_dim", m.head_dim}, {"hidden", m.hidden}, {"vocabulary", shape::vocabulary}};
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
  for (outcome const& o : r.outcomes) j["runs"].push_back(to_json(o));
  std::ofstream out(file);
  out << j.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n" << std::flush;
  if (!out) throw std::runtime_error("cannot write " + file.string());
}

} // namespace trainer
