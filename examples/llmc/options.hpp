// The command line of the made program: how many ranks (threads only), and whether attention stays inside documents.
// What it does not understand ends the program with code 2 and the usage.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace llmc {

struct options {
  int ranks = 0;        ///< 0: not given
  int end_of_text = -1; ///< -1: not given
};

[[noreturn]] inline void usage(char const* program, bool with_ranks) {
  std::fprintf(stderr,
               "usage: %s%s [--documents[=TOKEN]]\n"
               "%s"
               "  --documents  attention stays inside documents; each begins with TOKEN, by default GPT-2's end of text, 50256\n",
               program, with_ranks ? " RANKS" : "", with_ranks ? "  RANKS        how many threads share each sequence\n" : "");
  std::exit(2);
}

/// A whole number in [0, most], or the end of the program.
inline int number(char const* text, int most, char const* program, bool with_ranks) {
  char* end = nullptr;
  long const value = std::strtol(text, &end, 10);
  if (end == text || *end || value < 0 || value > most) usage(program, with_ranks);
  return int(value);
}

inline options read_options(int argc, char** argv, bool with_ranks) {
  options o;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--documents") == 0)
      o.end_of_text = 50256;
    else if (std::strncmp(argv[i], "--documents=", 12) == 0)
      o.end_of_text = number(argv[i] + 12, 65535, argv[0], with_ranks); // tokens of llm.c's files are uint16
    else if (with_ranks && o.ranks == 0)
      o.ranks = number(argv[i], 4096, argv[0], with_ranks);
    else
      usage(argv[0], with_ranks);
  }
  if (with_ranks && o.ranks == 0) usage(argv[0], with_ranks);
  return o;
}

} // namespace llmc
