// What the trainer leaves behind: a table on the terminal, train.json with all numbers, report.html with pictures.
// All three show the same outcomes; the page stands alone, without scripts or anything fetched.
#pragma once

#include "multimodal/training/outcome.hpp"
#include "multimodal/training/plans.hpp"

namespace multimodal {

/// Everything a report shows.
struct report {
  settings asked{};
  digit_sets const* digits = nullptr;
  index_t parameters = 0;
  std::vector<plan> plans{};
  std::vector<sample> first_step{}; ///< whose owners are drawn
  std::vector<outcome> outcomes{};  ///< in double, then in float, each in the order of plans
  double slopes = 0;                ///< gradients of one rank against differences of the loss
  std::string found{};              ///< in the model by sp::inspect
  double seconds = 0;
  std::string ranks_are{};
  int cores = 1;

  bool drawn() const { return asked.images.empty(); }
  /// The runs of a number type: one for each plan, one rank first.
  std::span<outcome const> in_float() const { return std::span(outcomes).last(plans.size()); }
  std::span<outcome const> in_double() const { return std::span(outcomes).first(plans.size()); }
};

/// What is wrong, in sentences.
std::vector<std::string> complaints(report const& r);

void print_table(report const& r);
void write_json(report const& r, std::filesystem::path const& file);
void write_html(report const& r, std::filesystem::path const& file);

} // namespace multimodal
