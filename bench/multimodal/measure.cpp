// The measurements: one program of ranks for each plan, ledgers and clocks of every rank.
// A step that counts nothing comes first: its results are compared, and what it sent with the closed forms.
#include "multimodal/measure.hpp"

#include <chrono>
#include <mutex>

#include <fmt/format.h>

#include <sp/cpu.hpp>
#include <sp/reference.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

namespace multimodal {
namespace {

using steady = std::chrono::steady_clock;
using times = std::vector<std::array<double, std::size_t(stages)>>; ///< by step

/// What the ranks of one plan write, each its own entry.
struct notes {
  std::vector<times> seconds;
  std::vector<stage_bytes> bytes;
  std::mutex lock;
};

/// Bytes of one step, by stage.
template <class Path>
void count_step(Path& path, sp::ledger& counts, stage_bytes& into) {
  path.step([&](stage s, auto&& body) {
    index_t const before = counts.total().bytes_sent;
    body();
    into[std::size_t(s)] += counts.total().bytes_sent - before;
  });
}
template <class Path>
void time_step(Path& path, sp::threads const& ranks, std::array<double, std::size_t(stages)>& into) {
  path.step([&](stage s, auto&& body) {
    sp::barrier(ranks);
    auto const start = steady::now();
    body();
    into[std::size_t(s)] += std::chrono::duration<double>(steady::now() - start).count();
  });
}

template <class Attention>
void run_rank(sp::threads const& ranks, sp::ledger& counts, workload const& w, plan const& p, Attention const& attention,
              notes& all, results& found, measured& m) {
  using comm = sp::counting<sp::threads>;
  comm const counted(ranks, counts);
  sp::vit_attention tower{counted, attention(counted, sp::full()), sp::shares{}, {prefix}};
  auto decoder = attention(counted, sp::causal());
  path<float, comm, decltype(tower), decltype(decoder)> path(counted, w, std::move(tower), std::move(decoder));
  auto const me = std::size_t(ranks.rank());
  count_step(path, counts, all.bytes[me]);
  path.collect(found);
  all.seconds[me].resize(std::size_t(m.steps));
  for (auto& s : all.seconds[me]) time_step(path, ranks, s);
  std::scoped_lock hold(all.lock);
  if (me == 0) m.predicted = predicted_bytes(w, path, p.how, p.ranks, sizeof(float));
  m.tensor_bytes = std::max(m.tensor_bytes, path.tensor_bytes());
  m.call_bytes = std::max(m.call_bytes, path.call_bytes());
}

/// Of the slowest rank, the median of the steps.
double slowest(notes const& all, int s) {
  std::vector<double> steps;
  for (std::size_t i = 0; i < all.seconds[0].size(); ++i) {
    double worst = 0;
    for (times const& of_rank : all.seconds) worst = std::max(worst, of_rank[i][std::size_t(s)]);
    steps.push_back(worst);
  }
  std::nth_element(steps.begin(), steps.begin() + index_t(steps.size() / 2), steps.end());
  return steps[steps.size() / 2];
}

} // namespace

results oracle(workload const& w) {
  results r(w);
  auto attention = [](sp::mask mask) { return sp::ulysses_attention{sp::solo{}, sp::reference{}, {.mask = std::move(mask)}}; };
  sp::vit_attention tower{sp::solo{}, attention(sp::full()), sp::shares{}, {prefix}};
  auto decoder = attention(sp::causal());
  path<double, sp::solo, decltype(tower), decltype(decoder)> path(sp::solo{}, w, std::move(tower), std::move(decoder));
  path.step([](stage, auto&& body) { body(); });
  path.collect(r);
  return r;
}

std::string wrong(measured const& m) {
  std::string const where = fmt::format("{} patches and tokens, {}: ", m.tokens, m.of.name);
  if (!(m.difference <= allowed))
    return where + fmt::format("results differ from the expected ones by {:.1e}, allowed is {:.0e}", m.difference, allowed);
  for (std::size_t s = 0; s < m.bytes.size(); ++s)
    if (m.bytes[s] != m.predicted[s])
      return where +
             fmt::format("{}: {} bytes were counted, the closed form says {}", stage_names[s], m.bytes[s], m.predicted[s]);
  return "";
}

measured measure(workload const& w, plan const& p, int steps, results& found) {
  measured m{w.tokens, p, steps};
  notes all;
  all.seconds.resize(std::size_t(p.ranks)), all.bytes.resize(std::size_t(p.ranks));
  sp::threads::run(p.ranks, [&](sp::threads const& ranks) {
    sp::ledger counts;
    auto ulysses = [](auto const& c, sp::mask mask) { return sp::ulysses_attention{c, sp::cpu{}, {.mask = std::move(mask)}}; };
    auto ring = [](auto const& c, sp::mask mask) {
      return sp::ring_attention{c, sp::cpu{}, {.mask = std::move(mask), .schedule = sp::schedule::rotate}};
    };
    p.how == strategy::ring ? run_rank(ranks, counts, w, p, ring, all, found, m)
                            : run_rank(ranks, counts, w, p, ulysses, all, found, m);
  });
  for (int s = 0; s < stages; ++s) {
    m.seconds[std::size_t(s)] = slowest(all, s);
    for (stage_bytes const& of_rank : all.bytes) m.bytes[std::size_t(s)] += of_rank[std::size_t(s)];
  }
  return m;
}

} // namespace multimodal
