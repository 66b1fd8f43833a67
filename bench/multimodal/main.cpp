// bench_multimodal [--quick] [--out DIR] [--plant bytes|numbers]: attention of a vision-language model over 1, 2 and 4 ranks, 256 to 16384 patches and tokens.
// Prints a table and writes multimodal.json and multimodal.svg into DIR; ends with 1 if a result or a byte is not what it must be.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include <fmt/format.h>

#include "multimodal/report.hpp"

namespace {

using namespace multimodal;

struct settings {
  std::vector<sp::index_t> sizes{256, 1024, 4096, 16384};
  std::string out = ".", plant{}; ///< plant: a fault, to see that it is noticed
  bool quick = false;
};

/// Steps that are timed: as many as a size has time for.
int steps_of(settings const& s, sp::index_t tokens) { return s.quick || tokens > 4096 ? 1 : tokens > 1024 ? 3 : 9; }

bool read(int argc, char** argv, settings& s) {
  for (int i = 1; i < argc; ++i) {
    if (!std::strcmp(argv[i], "--quick"))
      s.quick = true, s.sizes = {64, 128};
    else if (!std::strcmp(argv[i], "--out") && i + 1 < argc)
      s.out = argv[++i];
    else if (!std::strcmp(argv[i], "--plant") && i + 1 < argc)
      s.plant = argv[++i];
    else
      return false;
  }
  return s.plant.empty() || s.plant == "bytes" || s.plant == "numbers";
}

/// Progress goes to stderr, so that stdout is the table.
class progress {
public:
  void say(std::string const& what) const {
    double const s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
    fmt::print(stderr, "{:5.0f} s  {}\n", s, what);
  }

private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// Everything that was asked for; a sentence in `problem` ends it.
std::vector<measured> measure_all(settings const& s, std::string& problem) {
  progress now;
  std::vector<measured> list;
  for (sp::index_t tokens : s.sizes) {
    workload const w(tokens);
    results one(w);
    for (plan const& p : plans) {
      now.say(fmt::format("{} patches and tokens, {}", tokens, p.name));
      results found(w);
      measured m = measure(w, p, steps_of(s, tokens), found);
      if (s.plant == "bytes") ++m.predicted[deepstack_backward];
      if (s.plant == "numbers") found.dtext[7] += 0.01;
      bool const first = tokens == s.sizes.front() && p.ranks == 1;
      m.difference = first ? found.difference(oracle(w)) : p.ranks == 1 ? 0 : found.difference(one);
      if (p.ranks == 1) one = std::move(found);
      list.push_back(m);
      if (problem = wrong(m); !problem.empty()) return list;
    }
  }
  now.say("done");
  return list;
}

} // namespace

int main(int argc, char** argv) {
  settings s;
  if (!read(argc, argv, s)) {
    fmt::print(stderr, "usage: bench_multimodal [--quick] [--out DIR] [--plant bytes|numbers]\n");
    return 2;
  }
  try {
    std::filesystem::create_directories(s.out);
    machine on{int(std::thread::hardware_concurrency())};
    if (getloadavg(&on.load, 1) != 1) on.load = 0;
    std::string problem;
    std::vector<measured> const all = measure_all(s, problem);
    if (!problem.empty()) {
      fmt::print(stderr, "bench_multimodal: {}\n", problem);
      return 1;
    }
    fmt::print("{}", table(all, on));
    for (auto const& [name, text] :
         {std::pair("multimodal.json", json(all, on)), std::pair("multimodal.svg", picture(all, on))}) {
      auto const path = std::filesystem::path(s.out) / name;
      std::ofstream file(path);
      if (!(file << text << std::flush)) throw std::runtime_error("cannot write " + path.string());
      fmt::print("{}\n", path.string());
    }
  } catch (std::exception const& e) {
    fmt::print(stderr, "bench_multimodal: {}\n", e.what());
    return 1;
  }
}
