// Progress of a run: a bar that redraws itself where the output is a terminal, a few plain lines where it is not (or is dumb:
// mpirun gives its processes terminals whatever its own output is, so examples/run.sh says TERM=dumb).
// Only one rank reports, so nothing here is shared between threads.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include <unistd.h>

#include <fmt/core.h>

#include "config.hpp"

namespace trainer {

class progress {
public:
  /// Before the first run: how many tokens all runs together will see, for the time left.
  explicit progress(double all_tokens) : all_(all_tokens), terminal_(isatty(STDOUT_FILENO) == 1 && !dumb()) {}

  /// A run begins.
  void begin(std::string title, int steps) {
    title_ = std::move(title);
    steps_ = steps;
    run_tokens_ = 0;
    run_start_ = clock::now();
  }

  /// A step is done.
  void step(int number, double loss, double tokens) {
    run_tokens_ += tokens;
    done_ += tokens;
    bool last = number + 1 == steps_;
    if (terminal_ && (last || seconds(drawn_) > 0.05)) draw(number + 1, loss, last);
    int every = (steps_ + 3) / 4;
    if (!terminal_ && (last || (number + 1) % every == 0))
      fmt::print("  {:<28} step {:>3}/{}  loss {:.4f}  {:>8.0f} tokens/s\n", title_, number + 1, steps_, loss, rate());
    std::fflush(stdout);
  }

  double seconds_in_all() const { return seconds(start_); }

private:
  using clock = std::chrono::steady_clock;
  static bool dumb() {
    char const* term = std::getenv("TERM");
    return term && std::string_view(term) == "dumb";
  }
  static double seconds(clock::time_point since) { return std::chrono::duration<double>(clock::now() - since).count(); }
  double rate() const { return run_tokens_ / seconds(run_start_); }

  void draw(int steps, double loss, bool last) {
    constexpr int width = 24;
    int filled = width * steps / steps_;
    std::string bar;
    for (int i = 0; i < width; ++i) bar += i < filled ? "█" : "░";
    double left = seconds(start_) * (all_ - done_) / done_; // of all runs, at the speed so far
    fmt::print("\r  {:<28} {} {:>3}/{}  loss {:.4f}  {:>8.0f} tokens/s  {:>3.0f} s left\x1b[K", title_, bar, steps, steps_, loss,
               rate(), left);
    if (last) fmt::print("\n");
    drawn_ = clock::now();
  }

  double all_, done_ = 0, run_tokens_ = 0;
  bool terminal_;
  std::string title_;
  int steps_ = 1;
  clock::time_point start_ = clock::now(), run_start_ = start_, drawn_ = start_;
};

} // namespace trainer
