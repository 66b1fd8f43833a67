// The engine of sp::cudnn over cudnn-frontend, which takes two minutes to compile: empty but in the one source of a program that
// defines SP_CUDNN_IMPLEMENTATION before it includes <sp/cudnn.hpp>. Graphs say what call.hpp says, and nothing else.
#pragma once

#ifdef SP_CUDNN_IMPLEMENTATION

#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#if !__has_include(<cudnn_frontend.h>)
#error                                                                                                                           \
    "sp: cudnn_frontend.h was not found: pip download nvidia-cudnn-frontend, unzip it, and compile with -I <its folder>/include"
#endif
#include <cudnn_frontend.h>

#include <sp/backend/cudnn/engine.hpp>
#include <sp/cuda/error.hpp>

namespace sp::detail {

inline constexpr std::size_t oldest_cudnn = 91900;
static_assert(CUDNN_VERSION >= oldest_cudnn, "sp: cudnn.h is older than cuDNN 9.19");

/// backend_error with what cuDNN said.
inline void cudnn_check(cudnn_frontend::error_t e, char const* what) { // whose message is not to be had of a const one
  if (e.is_bad())
    fail({errc::backend_error, std::string(what) + ": " + e.get_message(),
          "Set CUDNN_FRONTEND_LOG_INFO=1 and CUDNN_FRONTEND_LOG_FILE=stderr to see what cuDNN says. " + std::string(sdpa_remedy),
          "cudnn"});
}
inline void cudnn_check(cudnnStatus_t code, char const* call) {
  if (code != CUDNN_STATUS_SUCCESS)
    fail({errc::backend_error, std::string(call) + ": " + cudnnGetErrorString(code),
          "Check that cuDNN's library is that of its headers, and that the device is one it supports", "cudnn"});
}

/// A call as cudnn-frontend says it. Its tensors are known by numbers: 1 + sdpa_tensor, and those below.
class sdpa_graph {
public:
  static constexpr std::int64_t stats = 20, scale = 21, lengths = 22, offsets = 30;

  /// For an architecture, as 90; 0: that of the current device.
  explicit sdpa_graph(sdpa_shape const& s, int architecture = 0) : shape_(s) {
    namespace fe = cudnn_frontend;
    if (architecture > 0) graph.set_sm_version(architecture); // before the operations, which copy it
    graph.set_io_data_type(s.is_bf16 ? fe::DataType_t::BFLOAT16 : fe::DataType_t::HALF)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    scale_ =
        graph.tensor(attributes("scale", scale, {1, 1, 1, 1}, {1, 1, 1, 1}, fe::DataType_t::FLOAT).set_is_pass_by_value(true));
    if (s.ragged)
      for (int side = 0; side < 2; ++side)
        lengths_[side] = graph.tensor(
            attributes(side ? "keys" : "rows", lengths + side, {s.batch, 1, 1, 1}, {1, 1, 1, 1}, fe::DataType_t::INT32));
    s.backward ? backward() : forward();
  }

  cudnn_frontend::graph::Graph graph;

private:
  using attributes_of = cudnn_frontend::graph::Tensor_attributes;
  using tensor = std::shared_ptr<attributes_of>;
  using numbers = std::vector<std::int64_t>;

  static attributes_of attributes(char const* name, std::int64_t number, numbers const& extents, numbers const& strides,
                                  cudnn_frontend::DataType_t type) {
    return attributes_of().set_name(name).set_uid(number).set_dim(extents).set_stride(strides).set_data_type(type);
  }

  numbers extents_of(int t) const {
    bool const of_keys = t == sdpa_k || t == sdpa_v || t == sdpa_dk || t == sdpa_dv;
    bool const of_values = t == sdpa_v || t == sdpa_out || t == sdpa_dout || t == sdpa_dv;
    return {shape_.batch, of_keys ? shape_.kv_heads : shape_.q_heads, of_keys ? shape_.keys : shape_.rows,
            of_values ? shape_.value_dim : shape_.dim};
  }
  numbers strides_of(int t) const {
    sdpa_strides const& s = shape_.strides[t];
    return {s.batch, s.head, s.row, 1};
  }
  /// Where the sequences of a tensor start.
  tensor offsets_of(int t) {
    if (!shape_.ragged) return nullptr;
    return graph.tensor(
        attributes("offsets", offsets + t, {shape_.batch + 1, 1, 1, 1}, {1, 1, 1, 1}, cudnn_frontend::DataType_t::INT64));
  }
  tensor input(int t) {
    constexpr char const* names[] = {"q", "k", "v", "out", "dout"};
    auto const type = shape_.is_bf16 ? cudnn_frontend::DataType_t::BFLOAT16 : cudnn_frontend::DataType_t::HALF;
    auto a = attributes(names[t], t + 1, extents_of(t), strides_of(t), type);
    if (shape_.ragged) a.set_ragged_offset(offsets_of(t));
    return graph.tensor(a);
  }
  void output(tensor const& x, int t) {
    x->set_output(true).set_uid(t + 1).set_dim(extents_of(t)).set_stride(strides_of(t));
    if (shape_.ragged) x->set_ragged_offset(offsets_of(t));
  }
  numbers stats_extents() const { return {shape_.batch, shape_.q_heads, shape_.rows, 1}; }
  numbers stats_strides() const { return {shape_.q_heads * shape_.rows, shape_.rows, 1, 1}; }

  /// What both directions say: scale, causal from the top left corner, lengths.
  template <class Options>
  Options options(char const* name) const {
    Options o;
    o.set_name(name).set_attn_scale(scale_);
    if (shape_.causal) o.set_diagonal_alignment(cudnn_frontend::DiagonalAlignment_t::TOP_LEFT).set_diagonal_band_right_bound(0);
    if (shape_.ragged) o.set_padding_mask(true).set_seq_len_q(lengths_[0]).set_seq_len_kv(lengths_[1]);
    return o;
  }

  void forward() {
    auto how = options<cudnn_frontend::graph::SDPA_attributes>("sp_forward");
    how.set_generate_stats(true);
    auto const q = input(sdpa_q), k = input(sdpa_k), v = input(sdpa_v);
    auto const [out, lse] = graph.sdpa(q, k, v, how);
    output(out, sdpa_out);
    lse->set_output(true).set_uid(stats).set_data_type(cudnn_frontend::DataType_t::FLOAT);
    lse->set_dim(stats_extents()).set_stride(stats_strides());
  }
  void backward() {
    auto how = options<cudnn_frontend::graph::SDPA_backward_attributes>("sp_backward");
    how.set_deterministic_algorithm(shape_.deterministic);
    auto const q = input(sdpa_q), k = input(sdpa_k), v = input(sdpa_v), out = input(sdpa_out), dout = input(sdpa_dout);
    auto const lse =
        graph.tensor(attributes("stats", stats, stats_extents(), stats_strides(), cudnn_frontend::DataType_t::FLOAT));
    auto const [dq, dk, dv] = graph.sdpa_backward(q, k, v, out, dout, lse, how);
    output(dq, sdpa_dq);
    output(dk, sdpa_dk);
    output(dv, sdpa_dv);
  }

  sdpa_shape shape_;
  tensor scale_, lengths_[2];
};

class cudnn_handle {
public:
  cudnn_handle() { cudnn_check(cudnnCreate(&handle_), "cudnnCreate"); }
  cudnn_handle(cudnn_handle const&) = delete;
  ~cudnn_handle() { static_cast<void>(cudnnDestroy(handle_)); }
  [[nodiscard]] cudnnHandle_t get() const noexcept { return handle_; }

private:
  cudnnHandle_t handle_ = nullptr;
};

/// Plans by value. One lock: a handle has one stream at a time, and a plan is made once however many ranks ask for it.
class frontend_engine final : public cudnn_engine {
public:
  [[nodiscard]] index_t plans() const override {
    std::lock_guard const lock(mutex_);
    return index_t(plans_.size());
  }

protected:
  index_t workspace_bytes_on(int device, sdpa_shape const& s) override {
    std::lock_guard const lock(mutex_);
    on_device const here(device, "cudnn");
    return plan_of(device, s).workspace;
  }
  void run_on(int device, cudaStream_t stream, sdpa_shape const& s, sdpa_arguments const& a, void* scratch) override {
    std::lock_guard const lock(mutex_);
    on_device const here(device, "cudnn");
    plan& p = plan_of(device, s);
    cudnnHandle_t const handle = handles_[device].get();
    cudnn_check(cudnnSetStream(handle, stream), "cudnnSetStream");
    auto addresses = addresses_of(s, a);
    cudnn_check(p.description.graph.execute(handle, addresses, scratch), s.backward ? "cuDNN's backward" : "cuDNN's forward");
  }

private:
  struct plan {
    sdpa_graph description;
    index_t workspace = 0;
    explicit plan(sdpa_shape const& s) : description(s) {}
  };

  plan& plan_of(int device, sdpa_shape const& s) {
    auto const found = plans_.find({device, s});
    if (found != plans_.end()) return *found->second;
    auto made = std::make_unique<plan>(s);
    auto& graph = made->description.graph;
    cudnn_check(graph.build(handles_[device].get(), {cudnn_frontend::HeurMode_t::A}), "A plan of cuDNN");
    std::int64_t bytes = 0;
    cudnn_check(graph.get_workspace_size(bytes), "The workspace of a plan of cuDNN");
    made->workspace = bytes;
    return *(plans_[{device, s}] = std::move(made));
  }

  static std::unordered_map<std::int64_t, void*> addresses_of(sdpa_shape const& s, sdpa_arguments const& a) {
    std::unordered_map<std::int64_t, void*> to;
    auto add = [&](std::int64_t number, void const* p) { to.emplace(number, const_cast<void*>(p)); };
    int const tensors = s.backward ? int(sdpa_tensor_count) : sdpa_forward_tensors;
    for (int t = 0; t < tensors; ++t) {
      bool const written = s.backward ? t >= sdpa_dq : t == sdpa_out;
      add(t + 1, written ? a.written[t] : a.read[t]);
      if (s.ragged) add(sdpa_graph::offsets + t, a.offsets[t]);
    }
    for (int side = 0; side < 2 && s.ragged; ++side) add(sdpa_graph::lengths + side, a.lengths[side]);
    add(sdpa_graph::stats, a.stats);
    add(sdpa_graph::scale, &a.scale); // read on the host, before the call returns
    return to;
  }

  mutable std::mutex mutex_;            ///< of all that follows
  std::map<int, cudnn_handle> handles_; ///< by device; made while it is current
  std::map<std::pair<int, sdpa_shape>, std::unique_ptr<plan>> plans_;
};

} // namespace sp::detail

namespace sp {
// Not inline: a second source that defines it is found by the linker.
std::unique_ptr<cudnn_engine> make_cudnn_engine() {
  if (cudnnGetVersion() < detail::oldest_cudnn)
    fail({errc::unsupported, "the cuDNN library found has the version " + std::to_string(cudnnGetVersion()),
          "Install cuDNN 9.19 (91900) or newer. " + std::string(detail::sdpa_remedy), "cudnn"});
  return std::make_unique<detail::frontend_engine>();
}
} // namespace sp

#endif
