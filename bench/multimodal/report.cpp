// Writes the measurements as text: the table and the JSON, and the sentences about what they do not show.
// Numbers are written as they were measured; nothing is left out or averaged here.
#include "multimodal/report.hpp"

#include <numeric>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace multimodal {
namespace {

index_t sum(stage_bytes const& b) { return std::accumulate(b.begin(), b.end(), index_t(0)); }

nlohmann::json of_stages(measured const& m) {
  nlohmann::json list;
  for (std::size_t s = 0; s < m.seconds.size(); ++s)
    list[stage_names[s]] = {{"seconds", m.seconds[s]}, {"bytes", m.bytes[s]}, {"predicted_bytes", m.predicted[s]}};
  return list;
}

} // namespace

measured const& alone(std::vector<measured> const& all, measured const& m) {
  for (measured const& o : all)
    if (o.tokens == m.tokens && o.of.ranks == 1) return o;
  return m;
}

std::vector<std::string> limits(machine const& on) {
  std::vector<std::string> list;
  if (on.processors < 4)
    list.push_back(
        fmt::format("{0} processors: four ranks share them, so about {0} is the most that a speed-up can be, and four ranks show "
                    "what cutting costs, not what four processors gain.",
                    on.processors));
  if (on.load > 0.5)
    list.push_back(fmt::format(
        "Other programs ran on this machine (load {:.1f} before the first step): bytes and memory are exact, times are "
        "not to be compared.",
        on.load));
  list.push_back(
      "Ranks are threads of one process: a message is a copy in memory. Latency, bandwidth and overlap of a network are not "
      "shown; its bytes are.");
  list.push_back(
      "One layer of each attention, float, without weights, norms and MLPs: a trainer's step has all of these, and they "
      "scale with rows.");
  list.push_back(
      "Memory is that of one rank's tensors and of the calls of sp; other layers of a model keep activations of their own.");
  return list;
}

std::string table(std::vector<measured> const& all, machine const& on) {
  std::string s = fmt::format("{:>7} {:10} {:>10} {:>12} {:>8} {:>12} {:>12} {:>9} {:>9} {:>8}\n", "tokens", "ranks", "s/step",
                              "rows/s", "speed-up", "bytes", "predicted", "MiB/rank", "of calls", "differs");
  for (measured const& m : all)
    s += fmt::format("{:>7} {:10} {:>10.4f} {:>12.0f} {:>8.2f} {:>12} {:>12} {:>9.2f} {:>9.2f} {:>8.0e}\n", m.tokens, m.of.name,
                     m.step_seconds(), throughput(m), alone(all, m).step_seconds() / m.step_seconds(), sum(m.bytes),
                     sum(m.predicted), double(m.tensor_bytes + m.call_bytes) / (1 << 20), double(m.call_bytes) / (1 << 20),
                     m.difference);
  s += "\nrows are patches and tokens; bytes are what all ranks send in a step, counted and by the closed form; differs: from "
       "one rank's "
       "results, in units of the largest\n";
  for (std::string const& l : limits(on)) s += "- " + l + "\n";
  return s;
}

std::string json(std::vector<measured> const& all, machine const& on) {
  nlohmann::json j{{"bench", "multimodal"},
                   {"processors", on.processors},
                   {"load_before", on.load},
                   {"element", "float"},
                   {"heads", heads},
                   {"kv_heads", kv_heads},
                   {"dim", dim},
                   {"prefix_tokens_per_image", prefix},
                   {"merge", merge},
                   {"largest_image_in_patches", largest_image},
                   {"not_shown", limits(on)}};
  for (measured const& m : all)
    j["runs"].push_back({{"patches", m.tokens},
                         {"tokens", m.tokens},
                         {"ranks", m.of.ranks},
                         {"plan", m.of.name},
                         {"timed_steps", m.steps},
                         {"seconds_per_step", m.step_seconds()},
                         {"patches_and_tokens_per_second", throughput(m)},
                         {"speed_up", alone(all, m).step_seconds() / m.step_seconds()},
                         {"bytes_sent", sum(m.bytes)},
                         {"predicted_bytes", sum(m.predicted)},
                         {"peak_tensor_bytes_per_rank", m.tensor_bytes},
                         {"peak_call_bytes_per_rank", m.call_bytes},
                         {"largest_relative_difference", m.difference},
                         {"stages", of_stages(m)}});
  return j.dump(1) + "\n";
}

} // namespace multimodal
