// The table and train.json.
// Numbers that must agree are printed with the bound they are held to.
#include "report.hpp"

#include <fstream>

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "compare.hpp"

namespace trainer {

void print_table(report const& r) {
  fmt::print("\n{:<20} {:<6} {:>10} | {:^29} | {:>9} {:^30} {:>11}\n", "", "", "", "difference from one rank", "",
             "bytes attention sends per token", "attention");
  fmt::print("{:<20} {:<6} {:>10} | {:>9} {:>9} {:>9} | {:>9} {:>11} {:>11} {:>7} {:>11}\n", "strategy", "type", "final loss",
             "loss", "norm", "gradient", "tokens/s", "counted", "closed form", "ratio", "peak/rank");
  for (outcome const& o : r.outcomes) {
    if (o.ranks == 1) fmt::print("{:-<125}\n", "");
    std::string ratio = o.bytes_expected > 0 ? fmt::format("{:.4f}", o.bytes_counted / o.bytes_expected) : "-";
    fmt::print("{:<20} {:<6} {:>10.6f} | {:>9.1e} {:>9.1e} {:>9.1e} | {:>9.0f} {:>11.1f} {:>11.1f} {:>7} {:>7.2f} MiB\n",
               o.strategy, o.type, final_loss(o), o.loss_difference, o.norm_difference, o.gradient_difference,
               o.tokens_per_second(), o.sent_per_token(), o.expected_per_token(), ratio, double(o.workspace) / (1 << 20));
  }
  fmt::print("\nFinal loss: mean of the last three steps. Differences are relative, over all steps; gradients: the first step's, "
             "worst matrix by norm. Allowed: float "
             "{:.0e}, double {:.0e}.\n",
             bound_of("float"), bound_of("double"));
  fmt::print("Bytes: all ranks, {} layers, forward and backward. Peak: scratch and saved tensors of attention. Ranks are {}.\n",
             r.asked.model.layers, r.ranks_are);
}

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
  j["seed"] = r.asked.seed;
  j["ranks_are"] = r.ranks_are;
  j["seconds"] = r.seconds;
  for (outcome const& o : r.outcomes) j["runs"].push_back(to_json(o));
  std::ofstream out(file);
  out << j.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n" << std::flush;
  if (!out) throw std::runtime_error("cannot write " + file.string());
}

} // namespace trainer
