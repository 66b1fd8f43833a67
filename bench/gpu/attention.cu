// G1 cuDNN over a matrix product, G2 sequence parallelism over 8 virtual ranks against one kernel call, G4 sp::cuda_flash over cuDNN,
// G5 what 8 GPUs would reach, modelled from the steps measured. bench_attention_gpu [results.json]. Skipped without a device.
// SP_BENCH_CUBLAS, SP_BENCH_CUDNN: those libraries are there; what needs one that is not is named as absent.
#include <atomic>
#include <barrier>
#include <cmath>
#include <memory>
#include <optional>
#include <thread>

#include <sp/cuda_flash.hpp>
#include <sp/ring.hpp>
#include <sp/ulysses.hpp>

#ifdef SP_BENCH_CUBLAS
#include <cublas_v2.h>
#endif
#ifdef SP_BENCH_CUDNN
#include <sp/cudnn.hpp>
#endif

#include "measure.hpp"

namespace {

using namespace gpu_bench;
using sp::bf16;
using view = sp::view<bf16, 3, device_memory>;

constexpr index_t heads = 16, dim = 128;
constexpr int virtual_ranks = 8;

/// Floating-point operations of causal attention; the backward pass has five products where forward has two.
double flops(index_t tokens, bool backward) {
  return (backward ? 2.5 : 1) * 2 * double(tokens) * double(tokens) * double(heads) * double(dim);
}

/// A stream, its queue and memory.
struct place {
  struct own_stream {
    cudaStream_t handle = nullptr;
    own_stream() { sp::detail::cuda_check(cudaStreamCreate(&handle), "cudaStreamCreate", "bench"); }
    own_stream(own_stream const&) = delete;
    ~own_stream() { static_cast<void>(cudaStreamDestroy(handle)); }
  } stream;
  sp::cuda_queue queue{stream.handle, 0};
  sp::device_pool memory{queue};
  sp::context<sp::cuda_queue> ctx{queue, memory, memory};
};

/// The tensors of one attention step: (tokens, heads, dim).
struct step_tensors {
  tensor<bf16> q, k, v, out, dout, dq, dk, dv;
  step_tensors(place& p, index_t tokens, unsigned seed)
      : q(make(p, tokens, seed)), k(make(p, tokens, seed + 1)), v(make(p, tokens, seed + 2)), out(make(p, tokens, seed + 3)),
        dout(make(p, tokens, seed + 4)), dq(make(p, tokens, seed + 5)), dk(make(p, tokens, seed + 6)),
        dv(make(p, tokens, seed + 7)) {}

private:
  static tensor<bf16> make(place& p, index_t tokens, unsigned seed) { return {p.queue, p.memory, {tokens, heads, dim}, seed}; }
};

/// Seconds of work that is queued and waited for, by the clock of the host, from an idle device on.
template <class Work>
double timed(sp::cuda_queue const& queue, Work const& work) {
  queue.synchronize();
  double const begin = now();
  work();
  queue.synchronize();
  return now() - begin;
}

// ---- one call of a kernel ------------------------------------------------------------------------------------------------------------

/// No keys have been seen yet.
struct no_keys {
  sp::view<float, 2, device_memory> lse;
  SP_BOTH void operator()(index_t i, index_t h) const { lse(i, h) = -INFINITY; }
};

/// sp::cuda_flash over all tokens, as an attention object calls it: state in float, gradients in float.
class flash_call {
public:
  flash_call(place& p, index_t tokens)
      : place_(p), x_(p, tokens, 1), out_(p.queue, p.memory, {tokens, heads, dim}, 2),
        dq_(p.queue, p.memory, {tokens, heads, dim}, 3), dk_(p.queue, p.memory, {tokens, heads, dim}, 4),
        dv_(p.queue, p.memory, {tokens, heads, dim}, 5), lse_(p.queue, p.memory, {tokens, heads, 1}, 6),
        delta_(p.queue, p.memory, {tokens, heads, 1}, 7), tokens_(tokens) {
    sp::documents const docs = sp::documents::rectangular(1, tokens);
    std::vector<sp::placed_run> const all{{{0, tokens, 1}, 0, 0}};
    plan_ = flash_.prepare({all, all, sp::slices(sp::causal(), docs, docs)}, p.ctx);
    numbers_ = {sp::all_heads(heads, heads), 1 / std::sqrt(double(dim))};
  }
  void forward() {
    place_.queue.for_each(std::array{tokens_, heads}, no_keys{{(*lse_).data, {tokens_, heads}}});
    sp::kv_views<bf16, device_memory> const keys{*x_.k, *x_.v};
    flash_.forward<bf16>(plan_, place_.memory, numbers_, *x_.q, std::span(&keys, 1), {*out_, per_head(lse_)}, place_.queue);
  }
  void backward() {
    sp::query_grad<bf16, device_memory> const query{*x_.q, *x_.out, *x_.dout, per_head(lse_), per_head(delta_), *dq_};
    sp::key_grad<bf16, device_memory> const key{*x_.k, *x_.v, *dk_, *dv_};
    flash_.backward<bf16>(plan_, place_.memory, numbers_, std::span(&query, 1), std::span(&key, 1), {}, place_.queue);
  }

private:
  sp::view<float, 2, device_memory> per_head(tensor<float> const& x) const { return {(*x).data, {tokens_, heads}}; }

  place& place_;
  step_tensors x_;
  tensor<float> out_, dq_, dk_, dv_, lse_, delta_;
  index_t tokens_;
  sp::cuda_flash<> flash_;
  sp::cuda_flash<>::plan plan_;
  sp::call_params numbers_;
};

#ifdef SP_BENCH_CUDNN
/// cuDNN's own call over all tokens: nothing of sp is around it.
class cudnn_call {
public:
  cudnn_call(sp::cudnn_engine& engine, place& p, index_t tokens)
      : engine_(engine), place_(p), x_(p, tokens, 1), stats_(p.queue, p.memory, {1, heads, tokens}, 2) {
    for (bool const backward : {false, true}) {
      sp::detail::sdpa_shape& s = shapes_[backward];
      s.backward = backward, s.causal = true, s.is_bf16 = true;
      s.batch = 1, s.rows = s.keys = tokens;
      s.q_heads = s.kv_heads = heads, s.dim = s.value_dim = dim;
      for (int t = 0; t < (backward ? int(sp::detail::sdpa_tensor_count) : sp::detail::sdpa_forward_tensors); ++t)
        s.strides[t] = {tokens * heads * dim, dim, heads * dim};
      index_t const bytes = engine.workspace_bytes(s, p.queue);
      scratch_[backward] = sp::owned<char, 1, device_memory>(p.memory, {std::max<index_t>(bytes, 1)});
    }
    sp::detail::sdpa_arguments& a = arguments_;
    using namespace sp::detail;
    a.read[sdpa_q] = (*x_.q).data, a.read[sdpa_k] = (*x_.k).data, a.read[sdpa_v] = (*x_.v).data;
    a.read[sdpa_out] = (*x_.out).data, a.read[sdpa_dout] = (*x_.dout).data;
    a.written[sdpa_out] = (*x_.out).data, a.written[sdpa_dq] = (*x_.dq).data;
    a.written[sdpa_dk] = (*x_.dk).data, a.written[sdpa_dv] = (*x_.dv).data;
    a.stats = (*stats_).data;
    a.scale = float(1 / std::sqrt(double(dim)));
  }
  void forward() { run(false); }
  void backward() { run(true); }

private:
  void run(bool backward) { engine_.run(shapes_[backward], arguments_, scratch_[backward].tensor.data, place_.queue); }
  sp::cudnn_engine& engine_;
  place& place_;
  step_tensors x_;
  tensor<float> stats_;
  sp::detail::sdpa_shape shapes_[2];
  sp::detail::sdpa_arguments arguments_;
  sp::owned<char, 1, device_memory> scratch_[2];
};
#endif

// ---- the same by ranks that are threads ------------------------------------------------------------------------------------------------

/// An object on its ranks, each a thread with its queue; a step is done by all of them when forward() or backward() returns.
class ranks_at_work {
public:
  template <class Sharding, class Make>
  ranks_at_work(int ranks, index_t tokens, Sharding sharding, Make make) : meet_(ranks + 1) {
    runner_ = std::thread([=, this] {
      try {
        std::vector<std::unique_ptr<place::own_stream>> streams;
        for (int r = 0; r < ranks; ++r) streams.push_back(std::make_unique<place::own_stream>());
        sp::cuda_local::run(
            ranks, [&](sp::cuda_local const& comm) { rank(comm, tokens, sharding, make); },
            {.deadline = std::chrono::seconds(120)}, [&](int r) { return sp::cuda_queue(streams[std::size_t(r)]->handle, 0); });
      } catch (std::exception const& e) {
        std::printf("bench: ranks failed: %s\n", e.what());
        std::_Exit(1); // the others would wait for ever
      }
    });
    meet_.arrive_and_wait(); // all are ready
  }
  ranks_at_work(ranks_at_work const&) = delete;
  ~ranks_at_work() {
    what_ = pass::none;
    meet_.arrive_and_wait();
    runner_.join();
  }
  double forward() { return one(pass::forward); }
  double backward() { return one(pass::backward); }

private:
  enum class pass { none, forward, backward };

  double one(pass what) {
    what_ = what;
    double const begin = now();
    meet_.arrive_and_wait();
    meet_.arrive_and_wait();
    return now() - begin;
  }
  template <class Sharding, class Make>
  void rank(sp::cuda_local const& comm, index_t tokens, Sharding sharding, Make const& make) {
    auto const& queue = comm.queue();
    sp::device_pool memory(queue);
    sp::context<sp::cuda_queue> const ctx(queue, memory, memory);
    sp::batch const b(sp::documents::rectangular(1, tokens), sharding, comm);
    index_t const mine = b.tokens();
    auto random = [&](unsigned seed) {
      return tensor<bf16>(queue, memory, {mine, heads, dim}, seed + 100u * unsigned(comm.rank()));
    };
    auto const q = random(1), k = random(2), v = random(3), out = random(4), dout = random(5), dq = random(6), dk = random(7),
               dv = random(8);
    auto const object = make(comm);
    auto const prepared = object.prepare(b, ctx);
    using saved_type = decltype(object.forward(prepared, ctx, *q, *k, *v, *out));
    std::optional<saved_type> saved;
    queue.synchronize();
    meet_.arrive_and_wait();
    for (;;) {
      meet_.arrive_and_wait();
      if (what_ == pass::none) break;
      if (what_ == pass::forward) {
        saved.reset();
        saved.emplace(object.forward(prepared, ctx, *q, *k, *v, *out));
      } else {
        object.backward(prepared, ctx, std::move(*saved), *q, *k, *v, *out, *dout, *dq, *dk, *dv);
        saved.reset();
      }
      queue.synchronize();
      meet_.arrive_and_wait();
    }
    comm.barrier(); // memory outlives what others have queued on it
  }

  std::barrier<> meet_;
  std::atomic<pass> what_{pass::none};
  std::thread runner_;
};

// ---- figures ---------------------------------------------------------------------------------------------------------------------------

std::string thousands(index_t tokens) { return std::to_string(tokens / 1024) + "K"; }
std::vector<double> sum(std::vector<double> a, std::vector<double> const& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}
spread tera(double work, std::vector<double> const& seconds) {
  std::vector<double> r;
  for (double s : seconds) r.push_back(work / s / 1e12);
  return spread_of(std::move(r));
}

/// Seconds by round of both passes of one call, and of an object on its ranks.
struct passes {
  std::vector<double> forward, backward;
};
template <class Call>
std::vector<std::function<double()>> arms_of(place& p, Call& call) {
  return {[&] { return timed(p.queue, [&] { call.forward(); }); }, [&] { return timed(p.queue, [&] { call.backward(); }); }};
}

/// Time of a message between two of 8 GPUs: 10 us and 370 GB/s, assumed.
double message(double bytes) { return 1e-5 + bytes / 370e9; }

/// G5 from medians: one GPU did the work of eight, and a hop or exchange is added where nothing hides it.
void modelled(results& to, std::string const& name, index_t tokens, bool ring, passes const& one, passes const& sp) {
  double const p = virtual_ranks, rows = double(tokens) / p, e = 2, q = rows * heads * dim * e, kv = q;
  double compute[2] = {spread_of(sp.forward).median / p, spread_of(sp.backward).median / p}, shown[2];
  if (ring) { // P-1 hops under P steps; the backward pass sends gradients in float beside the keys
    double const hop[2] = {message(2 * kv), message(2 * kv * (1 + 4 / e))};
    for (int b : {0, 1}) shown[b] = (p - 1) * std::max(0.0, hop[b] - compute[b] / p);
  } else { // two exchanges that nothing hides
    double const bytes = (p - 1) / p * (2 * q + 2 * kv);
    for (int b : {0, 1}) shown[b] = 1e-5 + message(bytes);
  }
  double const ideal[2] = {spread_of(one.forward).median / p, spread_of(one.backward).median / p};
  auto flat = [](double x) { return spread{x, x, x}; };
  char const* const note = "modelled: 370 GB/s and 10 us assumed, steps measured on one GPU";
  to.add("G5", name + "_modelled_8_gpus_forward", flat(ideal[0] / (compute[0] + shown[0])), "", "> .90", note);
  to.add("G5", name + "_modelled_8_gpus_both", flat((ideal[0] + ideal[1]) / (compute[0] + shown[0] + compute[1] + shown[1])), "",
         "> .95", note);
}

/// G2 and G5: an object on 8 ranks against one call of its kernel. make(comm): the object.
template <class Call, class Sharding, class Make>
void against_one_call(results& to, std::string const& kernel, char const* object, bool ring, index_t tokens, place& p, Call& call,
                      Sharding sharding, Make const& make) {
  ranks_at_work ranks(virtual_ranks, tokens, sharding, make);
  auto arms = arms_of(p, call);
  arms.push_back([&] { return ranks.forward(); });
  arms.push_back([&] { return ranks.backward(); });
  // a backward pass needs the forward pass before it: both turn as one
  std::vector<std::vector<double>> t(4);
  auto pair = [&](std::size_t first) {
    return [&, first] {
      double const a = arms[first](), b = arms[first + 1]();
      t[first].push_back(a), t[first + 1].push_back(b);
      return a + b;
    };
  };
  auto const both = in_turns({pair(0), pair(2)});
  for (auto& x : t) x.erase(x.begin(), x.begin() + 2); // warming up
  passes const one{t[0], t[1]}, sp{t[2], t[3]};
  std::string const name = kernel + "_" + object + "_" + thousands(tokens);
  to.add("G2", name + "_both_over_one_call", ratio(both[1], both[0]), "", tokens == 65536 ? "<= 1.04" : "<= 1.10");
  to.add("G2", name + "_forward_over_one_call", ratio(sp.forward, one.forward), "");
  modelled(to, name, tokens, ring, one, sp);
}

/// Ulysses, and a ring in zigzag order.
template <class Call, class Kernel>
void both_objects(results& to, std::string const& kernel_name, index_t tokens, place& p, Call& call, Kernel const& kernel) {
  against_one_call(to, kernel_name, "ulysses", false, tokens, p, call, sp::contiguous{}, [kernel](sp::cuda_local const& comm) {
    return sp::ulysses_attention{comm, kernel, {.mask = sp::causal()}};
  });
  against_one_call(to, kernel_name, "ring_zigzag", true, tokens, p, call, sp::zigzag{}, [kernel](sp::cuda_local const& comm) {
    return sp::ring_attention{comm, kernel, {.mask = sp::causal(), .schedule = sp::schedule::rotate}};
  });
}

#ifdef SP_BENCH_CUBLAS
/// 8192^3 in bf16, sums in float.
class product {
public:
  explicit product(place& p) : a_(make(p, 1)), b_(make(p, 2)), c_(make(p, 3)) {
    check(cublasCreate(&handle_));
    check(cublasSetStream(handle_, p.stream.handle));
  }
  product(product const&) = delete;
  ~product() { static_cast<void>(cublasDestroy(handle_)); }
  static double work() { return 2.0 * n * n * n; }
  void operator()() const {
    float const one = 1, zero = 0;
    check(cublasGemmEx(handle_, CUBLAS_OP_N, CUBLAS_OP_N, n, n, n, &one, (*a_).data, CUDA_R_16BF, n, (*b_).data, CUDA_R_16BF, n,
                       &zero, (*c_).data, CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
  }

private:
  static constexpr int n = 8192;
  static tensor<bf16> make(place& p, unsigned seed) { return {p.queue, p.memory, {n, n, 1}, seed}; }
  static void check(cublasStatus_t s) {
    if (s != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(std::string("cuBLAS: ") + cublasGetStatusString(s));
  }
  tensor<bf16> a_, b_, c_;
  cublasHandle_t handle_ = nullptr;
};
#endif

/// G1 and G4 at 32K: kernels alone, each against what was measured in turn with it.
template <class... Calls>
void kernels_alone(results& to, place& p, index_t tokens, flash_call& flash, Calls&... cudnn) {
  auto arms = arms_of(p, flash);
  if constexpr (sizeof...(Calls) == 1)
    for (auto const& arm : arms_of(p, cudnn...)) arms.push_back(arm);
#ifdef SP_BENCH_CUBLAS
  product const gemm(p);
  arms.push_back([&] { return timed(p.queue, [&] { gemm(); }); });
#endif
  auto const t = in_turns(arms);
  for (int b : {0, 1}) {
    std::string const pass = b ? "backward" : "forward";
    to.add("G4", "cuda_flash_" + pass + "_" + thousands(tokens), tera(flops(tokens, b), t[std::size_t(b)]), "TFLOP/s");
    if constexpr (sizeof...(Calls) == 1) {
      auto const& theirs = t[std::size_t(2 + b)];
      to.add("G1", "cudnn_" + pass + "_" + thousands(tokens), tera(flops(tokens, b), theirs), "TFLOP/s");
      to.add("G4", "cuda_flash_over_cudnn_" + pass, ratio(theirs, t[std::size_t(b)]), "", ">= .5, then .9");
#ifdef SP_BENCH_CUBLAS
      spread r = ratio(t.back(), theirs);
      for (double* x : {&r.median, &r.low, &r.high}) *x *= flops(tokens, b) / product::work();
      to.add("G1", "cudnn_over_gemm_" + pass, r, "", ">= .85");
#endif
    }
  }
#ifdef SP_BENCH_CUBLAS
  to.add("G1", "gemm_8192", tera(product::work(), t.back()), "TFLOP/s");
#else
  to.absent("G1", "cudnn_over_gemm", "this program was compiled without cuBLAS");
#endif
  if constexpr (sizeof...(Calls) == 0)
    for (char const* name : {"G1", "G4"}) to.absent(name, "cuDNN", "there is no engine of cuDNN");
}

void measure(results& to) {
  place p;
  std::size_t available = 0, all = 0;
  sp::detail::cuda_check(cudaMemGetInfo(&available, &all), "cudaMemGetInfo", "bench");
  for (index_t const tokens : {index_t(32768), index_t(65536)}) {
    if (available < std::size_t(tokens) * (1u << 18)) { // 256 KiB a token: twice what is needed
      to.absent("G2", thousands(tokens), "too little memory is free");
      continue;
    }
    flash_call flash(p, tokens);
#ifdef SP_BENCH_CUDNN
    std::unique_ptr<sp::cudnn_engine> engine;
    try {
      engine = sp::make_cudnn_engine();
    } catch (sp::error const& e) {
      to.absent("G1", "cudnn_" + thousands(tokens), e.what());
    }
    if (engine) {
      cudnn_call cudnn(*engine, p, tokens);
      if (tokens == 32768) kernels_alone(to, p, tokens, flash, cudnn);
      both_objects(to, "cudnn", tokens, p, cudnn, sp::cudnn{*engine});
    } else if (tokens == 32768) {
      kernels_alone(to, p, tokens, flash);
    }
#else
    if (tokens == 32768) kernels_alone(to, p, tokens, flash);
#endif
    both_objects(to, "cuda_flash", tokens, p, flash, sp::cuda_flash{});
    p.queue.synchronize();
  }
}

} // namespace

int main(int argc, char** argv) { return program("attention", argc, argv, measure); }
