// What the trainer leaves behind: a table on the terminal, train.json with all numbers, report.html with pictures.
// All three show the same outcomes; the page stands alone, without scripts or anything fetched.
#pragma once

#include "training/outcome.hpp"
#include "training/plans.hpp"

namespace trainer {

/// Everything a report shows.
struct report {
  settings asked;
  corpus const* text = nullptr;
  index_t parameters = 0;
  std::vector<plan> plans;
  step_text first_step;          ///< the packed stream whose owners are drawn
  std::vector<outcome> outcomes; ///< by number type, then in the order of plans
  double seconds = 0;
  std::string ranks_are;          ///< "threads of this machine"; the name of a device, if there is one
  int cores = 1;                  ///< that the ranks of this machine share
  std::optional<double> slopes{}; ///< gradients of one rank in double against differences of the loss; not on devices
};

/// "over all steps", "over the first 8 steps"
std::string over_compared_steps(settings const& asked);
/// " in the first 8 steps" where not all are compared
std::string in_compared_steps(settings const& asked);
/// "2 layers, width 128, ..."
std::string layers_of(shape const& model);
/// What the ranks of a sequence do for gated delta nets.
inline char const* name_of(delta_by how) { return how == delta_by::heads ? "heads" : "state"; }
/// One sentence per broken promise; empty when all is well.
std::vector<std::string> complaints(report const& r);

void print_table(report const& r);
void write_json(report const& r, std::filesystem::path const& file);
void write_html(report const& r, std::filesystem::path const& file);

} // namespace trainer
