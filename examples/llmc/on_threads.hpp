// Ranks of the made program that are threads of one process; on_mpi.hpp has the same names for processes.
// Every rank has a model and a data loader of its own; the first failure of a rank ends all of them with code 1.
#pragma once

#include <atomic>
#include <exception>

#include <sp/threads.hpp>

#include "options.hpp"
#include "sequence.hpp"

namespace llmc {

using job = job_of<sp::threads>;
using sequence = sequence_of<sp::threads>;

/// main of the made program: body is llm.c's.
inline int run(int argc, char** argv, int (*body)(job const&)) {
  options const o = read_options(argc, argv, true);
  std::atomic<int> code = 0;
  try {
    sp::threads::run(o.ranks, [&](sp::threads const& ranks) {
      speaks = ranks.rank() == 0;
      if (int const mine = body({ranks, o.end_of_text})) code = mine;
    });
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  return code;
}

} // namespace llmc
