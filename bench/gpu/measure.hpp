// What the benches of a GPU share: random tensors, arms that take turns, medians with quartiles, and results as JSON.
// A ratio is of two arms of one run: the median of the ratios of its rounds. Nothing here asserts; who reads the table judges.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include <sp/core/memory.hpp>
#include <sp/cuda.hpp>

namespace gpu_bench {

using sp::device_memory;
using sp::index_t;

/// Values that look normally distributed, made on the device: hashes of the index, four to a sum. Never zeros: those take less power.
template <class T>
struct random_values {
  sp::view<T, 1, device_memory> to;
  unsigned seed;
  SP_BOTH void operator()(index_t i) const {
    float sum = 0;
    for (unsigned n = 0; n < 4; ++n) {
      unsigned x = (unsigned(i) * 4 + n) * 2654435761u + seed * 40503u;
      x = (x ^ x >> 16) * 2246822519u;
      x = (x ^ x >> 13) * 3266489917u;
      sum += float((x ^ x >> 16) & 0xffffu) / 65535.0f - 0.5f;
    }
    to(i) = T(sum * 1.7320508f); // four uniform ones have a third of the variance
  }
};

/// A tensor (rows, heads, dim) of random values.
template <class T>
class tensor {
public:
  tensor(sp::cuda_queue const& queue, sp::basic_allocator<device_memory>& memory, std::array<index_t, 3> extents, unsigned seed)
      : memory_(memory, extents) {
    index_t const n = memory_.tensor.elements();
    queue.for_each(std::array{n}, random_values<T>{{memory_.tensor.data, {n}}, seed});
  }
  sp::view<T, 3, device_memory> operator*() const { return memory_.tensor; }

private:
  sp::owned<T, 3, device_memory> memory_;
};

struct spread {
  double median = 0, low = 0, high = 0; ///< quartiles
};
inline spread spread_of(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  auto at = [&](double share) { return x.empty() ? 0 : x[std::min(x.size() - 1, std::size_t(share * double(x.size())))]; };
  return {at(0.5), at(0.25), at(0.75)};
}
/// Round by round, a over b.
inline spread ratio(std::vector<double> const& a, std::vector<double> const& b) {
  std::vector<double> r;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) r.push_back(a[i] / b[i]);
  return spread_of(std::move(r));
}

inline double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Seconds that each comparison may take; SP_BENCH_SECONDS.
inline double patience() {
  char const* s = std::getenv("SP_BENCH_SECONDS");
  return s ? std::atof(s) : 12;
}
inline constexpr int most_rounds = 21, least_rounds = 5;

/// Arms take turns, A B B A, after two rounds that warm up: seconds of each arm by round. An arm runs to its end and says how long it took.
inline std::vector<std::vector<double>> in_turns(std::vector<std::function<double()>> const& arms) {
  std::vector<std::vector<double>> times(arms.size());
  for (int warm = 0; warm < 2; ++warm)
    for (auto const& arm : arms) static_cast<void>(arm());
  double const end = now() + patience();
  for (int round = 0; round < most_rounds && (round < least_rounds || now() < end); ++round)
    for (std::size_t i = 0; i < arms.size(); ++i) {
      std::size_t const a = round % 2 ? arms.size() - 1 - i : i;
      times[a].push_back(arms[a]());
    }
  return times;
}

/// Seconds of work on a queue, by the device's clock: `times` calls of it, for work that takes less than a launch.
class device_clock {
public:
  explicit device_clock(cudaStream_t stream) : stream_(stream) {
    for (cudaEvent_t* e : {&begin_, &end_}) sp::detail::cuda_check(cudaEventCreate(e), "cudaEventCreate", "bench");
  }
  device_clock(device_clock const&) = delete;
  ~device_clock() {
    static_cast<void>(cudaEventDestroy(begin_));
    static_cast<void>(cudaEventDestroy(end_));
  }
  template <class Work>
  double operator()(int times, Work const& work) const {
    sp::detail::cuda_check(cudaEventRecord(begin_, stream_), "cudaEventRecord", "bench");
    for (int i = 0; i < times; ++i) work();
    sp::detail::cuda_check(cudaEventRecord(end_, stream_), "cudaEventRecord", "bench");
    sp::detail::cuda_check(cudaEventSynchronize(end_), "cudaEventSynchronize", "bench");
    float ms = 0;
    sp::detail::cuda_check(cudaEventElapsedTime(&ms, begin_, end_), "cudaEventElapsedTime", "bench");
    return double(ms) / 1000 / times;
  }

private:
  cudaStream_t stream_;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// What was measured, printed as it comes and written as JSON at the end.
class results {
public:
  explicit results(char const* bench) : bench_(bench) {}

  /// `target`: of PERFORMANCE; empty where there is none.
  void add(char const* group, std::string const& name, spread const& x, char const* unit, std::string const& target = "",
           char const* note = "") {
    std::printf("bench %-3s %-46s %9.4g [%.4g, %.4g] %-8s %s%s%s\n", group, name.c_str(), x.median, x.low, x.high, unit,
                target.empty() ? "" : "target ", target.c_str(), note[0] ? (std::string("  (") + note + ")").c_str() : "");
    std::fflush(stdout);
    json_ += std::string(json_.empty() ? "" : ",\n") + "    {\"group\": \"" + group + "\", \"name\": \"" + name +
             "\", \"median\": " + number(x.median) + ", \"low\": " + number(x.low) + ", \"high\": " + number(x.high) +
             ", \"unit\": \"" + unit + "\", \"target\": \"" + target + "\", \"note\": \"" + note + "\"}";
  }
  /// What could not be measured here: there is no figure of it.
  void absent(char const* group, std::string const& name, std::string const& why) {
    std::printf("bench %-3s %-46s absent: %s\n", group, name.c_str(), why.c_str());
    std::fflush(stdout);
    json_ += std::string(json_.empty() ? "" : ",\n") + "    {\"group\": \"" + group + "\", \"name\": \"" + name +
             "\", \"absent\": \"" + on_one_line(why) + "\"}";
  }
  /// A message as JSON takes it.
  static std::string on_one_line(std::string text) {
    for (char& c : text) c = c == '"' || c == '\\' ? '\'' : static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    return text;
  }
  void write(char const* path) const {
    std::FILE* const f = std::fopen(path, "w");
    if (!f) return std::perror(path);
    std::fprintf(f, "{\"bench\": \"%s\", \"device\": \"%s\", \"results\": [\n%s\n  ]}\n", bench_, device().c_str(),
                 json_.c_str());
    std::fclose(f);
  }
  static std::string device() {
    cudaDeviceProp p{};
    sp::detail::cuda_check(cudaGetDeviceProperties(&p, 0), "cudaGetDeviceProperties", "bench");
    return p.name;
  }

private:
  static std::string number(double x) {
    char text[32];
    std::snprintf(text, sizeof text, "%.6g", x);
    return text;
  }
  char const* bench_;
  std::string json_;
};

/// A program: measure(results) where there is a device; its name, and where the JSON goes.
template <class Measure>
int program(char const* name, int argc, char** argv, Measure const& measure) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::puts("skipped: no device");
    return 77;
  }
  results all(name);
  int code = 0;
  try {
    measure(all);
  } catch (std::exception const& e) {
    std::printf("bench %s failed: %s\n", name, e.what());
    code = 1;
  }
  if (argc > 1) all.write(argv[1]);
  return code;
}

} // namespace gpu_bench
