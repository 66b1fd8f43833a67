// What the soak programs share: their arguments, progress every 30 seconds, a watchdog that turns a hang into an error, memory.
// A watchdog never waits for ever: without progress for two minutes it prints what was running and ends the process with status 3.
#pragma once

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

namespace soak {

using clock = std::chrono::steady_clock;

/// --name value pairs.
class arguments {
public:
  arguments(int argc, char** argv) : count_(argc), values_(argv) {}
  double number(char const* name, double usual) const {
    for (int i = 2; i + 1 < count_; i += 2)
      if (std::strcmp(values_[i], name) == 0) return std::atof(values_[i + 1]);
    return usual;
  }

private:
  int count_;
  char** values_;
};

/// Counts towards a total until it is reached or the time is used up; reports, watches and measures memory meanwhile.
class run {
public:
  run(char const* what, double total, double seconds)
      : what_(what), total_(total),
        end_(clock::now() +
             std::chrono::duration_cast<clock::duration>(std::chrono::duration<double>(seconds > 0 ? seconds : 1e7))),
        watch_([this] { watch(); }) {}
  ~run() {
    {
      std::lock_guard hold(lock_);
      over_ = true;
    }
    wake_.notify_one();
    watch_.join();
  }
  run(run const&) = delete;

  bool more() const { return done_ < total_ && clock::now() < end_; }
  double done() const { return done_; }
  void doing(std::string text) {
    std::lock_guard hold(lock_);
    doing_ = std::move(text);
  }
  /// n more are done. Memory is sampled from a fifth of the way to two fifths, and in the last fifth.
  void add(double n) {
    done_ = done_ + n;
    auto const now = clock::now();
    if (now < next_sample_) return;
    next_sample_ = now + std::chrono::milliseconds(200);
    double const way = std::max(done_ / total_, std::chrono::duration<double>(now - start_) / (end_ - start_));
    if (way < 0.2 || (way >= 0.4 && way < 0.8)) return;
    long& least = way < 0.4 ? first_ : last_;
    long const size = resident();
    if (least == 0 || size < least) least = size;
  }
  double seconds() const { return std::chrono::duration<double>(clock::now() - start_).count(); }
  /// The least memory in kB after the warm-up and at the end: what is really held, whatever one case takes for a moment.
  std::string memory() const {
    long const last = last_ ? last_ : resident();
    return " rss_first " + std::to_string(first_ ? first_ : last) + " rss_last " + std::to_string(last);
  }
  /// In use now, without what malloc keeps for later.
  static long resident() {
    ::malloc_trim(0);
    long size = 0, pages = 0;
    if (std::FILE* f = std::fopen("/proc/self/statm", "r")) {
      if (std::fscanf(f, "%ld %ld", &size, &pages) != 2) pages = 0;
      std::fclose(f);
    }
    return pages * (::sysconf(_SC_PAGESIZE) / 1024);
  }

private:
  void watch() {
    double seen = -1;
    auto moved = clock::now(), told = moved;
    for (std::unique_lock hold(lock_); !wake_.wait_for(hold, std::chrono::seconds(1), [&] { return over_; });) {
      auto const now = clock::now();
      if (done_ != seen) seen = done_, moved = now;
      if (now - moved > std::chrono::minutes(2)) {
        std::printf("HANG %s: no progress for two minutes: %s\n", what_, doing_.c_str());
        std::fflush(stdout);
        ::_exit(3);
      }
      if (now - told < std::chrono::seconds(30)) continue;
      told = now;
      std::printf("... %s %.0f of %.0f, %.1f per second\n", what_, seen, total_, seen / seconds());
      std::fflush(stdout);
    }
  }

  char const* what_;
  double total_;
  clock::time_point start_ = clock::now(), end_;
  std::atomic<double> done_{0};
  long first_ = 0, last_ = 0;
  clock::time_point next_sample_ = start_;
  std::mutex lock_;
  std::condition_variable wake_;
  bool over_ = false;
  std::string doing_;
  std::thread watch_; // last: it uses all of the above
};

} // namespace soak
