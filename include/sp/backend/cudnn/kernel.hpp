// The attention backend over cuDNN: cuts a problem into calls, hands them to an engine, and merges or adds what they give.
// All that cuDNN would answer with NaN, an error or wrong numbers is kept away from it here, or refused in a sentence.
#pragma once

#include <sp/backend/cudnn/passes.hpp>
#include <sp/backend/cudnn/sequences.hpp>

namespace sp {

namespace detail {

/// What cuDNN computes with.
template <class T>
concept sdpa_element = std::same_as<T, bf16> || std::same_as<T, fp16>;

/// Memory of one call beside the tensors of the library.
template <class T, class M>
struct sdpa_room {
  owned<T, 3, M> out, dq, dk, dv; ///< (rows of all sequences, heads, dim): out forward, the others backward
  owned<float, 3, M> stats;
  owned<sequence_place, 1, M> places;
  owned<std::int32_t, 2, M> lengths;
  owned<std::int64_t, 2, M> offsets;
  basic_buffer<M> workspace;

  sdpa_room(basic_allocator<M>& from, sdpa_batch const& b, sdpa_shape const& s, index_t workspace_bytes)
      : stats(from, {s.batch, s.q_heads, s.rows}) {
    if (s.backward) {
      dq = {from, {b.q_total(), s.q_heads, s.dim}};
      dk = {from, {b.k_total(), s.kv_heads, s.dim}};
      dv = {from, {b.k_total(), s.kv_heads, s.value_dim}};
    } else {
      out = {from, {b.q_total(), s.q_heads, s.value_dim}};
    }
    if (s.ragged) {
      places = {from, {s.batch + 1}};
      lengths = {from, {2, s.batch}};
      offsets = {from, {s.backward ? sdpa_tensor_count : sdpa_forward_tensors, s.batch + 1}};
    }
    workspace = basic_buffer<M>(from, workspace_bytes);
  }
};

/// One call while it is put together: tensors and strides go in one by one.
template <class T, class M>
class sdpa_call {
public:
  sdpa_shape shape;
  sdpa_arguments arguments;

  sdpa_call(sdpa_batch const& b, gqa_range const& g, index_t dim, index_t value_dim, bool backward, bool deterministic)
      : batch_(b) {
    shape.backward = backward, shape.causal = b.causal;
    shape.ragged = !b.even;
    shape.deterministic = backward && deterministic;
    shape.is_bf16 = std::is_same_v<T, bf16>;
    shape.batch = b.count(), shape.rows = b.rows, shape.keys = b.keys;
    shape.q_heads = g.q_count, shape.kv_heads = g.kv_count;
    shape.dim = dim, shape.value_dim = value_dim;
    index_t const q_heads = g.q_count, kv_heads = g.kv_count;
    packed(sdpa_out, q_heads * value_dim, value_dim, b.rows);
    if (!backward) return;
    packed(sdpa_dq, q_heads * dim, dim, b.rows);
    packed(sdpa_dk, kv_heads * dim, dim, b.keys);
    packed(sdpa_dv, kv_heads * value_dim, value_dim, b.keys);
  }

  /// A tensor of the library, of the rows (or keys) and the heads of this call.
  void read(sdpa_tensor t, view<T const, 3, M> const& v) {
    bool const keys = t == sdpa_k || t == sdpa_v;
    index_t const length = keys ? batch_.keys : batch_.rows, step = keys ? batch_.k_step : batch_.q_step;
    check(t, v);
    sdpa_strides& s = shape.strides[t];
    s.row = v.extent(0) > 1 ? v.stride(0) : v.extent(1) * v.extent(2);
    s.head = v.extent(1) > 1 ? v.stride(1) : v.extent(2); // one head: plans do not depend on where the next one would be
    s.batch = (batch_.even && batch_.count() > 1 ? step : length) * s.row;
    arguments.read[t] = v.data;
    starts_[t] = keys ? sequence_start::k : sequence_start::q;
  }

  /// Runs the engine between the passes before(room) and behind(room).
  template <class Engine, class Queue, class Before, class Behind>
  void run(Engine& engine, basic_allocator<M>& scratch, Queue const& queue, Before const& before, Behind const& behind) {
    sdpa_room<T, M> room(scratch, batch_, shape, engine.workspace_bytes(shape, queue));
    arguments.stats = room.stats.tensor.data;
    arguments.written[sdpa_out] = room.out.tensor.data;
    arguments.written[sdpa_dq] = room.dq.tensor.data;
    arguments.written[sdpa_dk] = room.dk.tensor.data;
    arguments.written[sdpa_dv] = room.dv.tensor.data;
    if (shape.ragged) write_lists(room, queue);
    before(room);
    engine.run(shape, arguments, room.workspace.template as<std::byte, 1>({room.workspace.bytes()}).data, queue);
    behind(room);
  }

  sequence_rows<M> rows(sdpa_room<T, M> const& room, bool keys) const {
    return {room.places.tensor, keys ? batch_.k_step : batch_.q_step, keys ? batch_.keys : batch_.rows, keys};
  }

private:
  void packed(sdpa_tensor t, index_t row, index_t head, index_t length) {
    shape.strides[t] = {length * row, head, row};
    starts_[t] = t == sdpa_dk || t == sdpa_dv ? sequence_start::packed_k : sequence_start::packed_q;
  }

  static void check(sdpa_tensor t, view<T const, 3, M> const& v) {
    constexpr char const* names[] = {"q", "k", "v", "out", "dout"};
    bool const dense_dim = v.extent(2) == 1 || v.stride(2) == 1;
    bool const aligned = reinterpret_cast<std::uintptr_t>(v.data) % 16 == 0 && (v.extent(0) == 1 || v.stride(0) % 8 == 0) &&
                         (v.extent(1) == 1 || v.stride(1) % 8 == 0);
    bool const forwards = (v.extent(0) == 1 || v.stride(0) > 0) && (v.extent(1) == 1 || v.stride(1) > 0);
    if (dense_dim && aligned && forwards) return;
    fail({errc::unsupported,
          "cuDNN takes heads whose elements follow each other, 16-byte aligned, at positive strides that are multiples of 8 "
          "elements; " +
              std::string(names[t]) + " " + sp::shape(v) + " has the strides (" + std::to_string(v.stride(0)) + ", " +
              std::to_string(v.stride(1)) + ", " + std::to_string(v.stride(2)) + ")" + (aligned ? "" : " or another start"),
          std::string("Copy the tensor into a dense one. ") + sdpa_remedy + ", which takes any strides", "cudnn"});
  }

  /// The sequences and where each tensor has them, written by the queue.
  template <class Queue>
  void write_lists(sdpa_room<T, M> const& room, Queue const& queue) {
    place_sequences<M> pass{};
    pass.count = batch_.count();
    pass.tensors = int(room.offsets.tensor.extent(0));
    for (int t = 0; t < pass.tensors; ++t) {
      pass.row_strides[t] = shape.strides[t].row;
      pass.starts[t] = starts_[t];
      arguments.offsets[t] = room.offsets.tensor.rows(t, 1).data;
    }
    pass.places = room.places.tensor, pass.lengths = room.lengths.tensor, pass.offsets = room.offsets.tensor;
    arguments.lengths[0] = room.lengths.tensor.data;
    arguments.lengths[1] = room.lengths.tensor.rows(1, 1).data;
    std::int32_t packed_q = 0, packed_k = 0;
    for (index_t b = 0; b <= pass.count; ++b) {
      bool const end = b == pass.count;
      sdpa_sequence const s =
          end ? sdpa_sequence{std::int32_t(batch_.q_span()), std::int32_t(batch_.k_span()), 0, 0} : batch_.list[std::size_t(b)];
      pass.list[b - pass.first] = {s.q, s.k, s.rows, s.keys, packed_q, packed_k};
      packed_q += s.rows, packed_k += s.keys;
      if (!end && b + 1 - pass.first < pass.most) continue;
      queue.for_each(std::array{b + 1 - pass.first}, pass);
      pass.first = b + 1;
    }
  }

  sdpa_batch const& batch_;
  sequence_start starts_[sdpa_tensor_count]{};
};

} // namespace detail

/// An attention_backend over cuDNN's flash attention, for tensors in memory M, by way of an engine of that memory's queues. bf16 and fp16.
///
/// Blocks that are full, or causal and can be cut into full and square causal ones, are computed, packed documents many at a time; partial
/// results are rounded to the type of the tensors, merged and added in float. Others are unsupported_mask. Head dimensions are multiples
/// of 8 up to 256, scales are positive, and tensors are 16-byte aligned with heads whose elements follow each other: otherwise
/// unsupported. Which calls a batch takes is decided on the host: a captured graph replays the batch that it was captured with.
template <class M, class Engine>
class basic_cudnn {
public:
  using memory_type = M;
  using saved = nothing;
  struct plan {
    std::vector<detail::sdpa_batch> batches;
  };

  /// The engine outlives the kernel and its copies.
  explicit basic_cudnn(Engine& engine, cudnn_options how = {}) : engine_(&engine), how_(how) {}

  [[nodiscard]] std::uint64_t features() const { return how_.features(); }

  [[nodiscard]] plan prepare(problem const& p) const { return {detail::sdpa_batches_of(p, how_)}; }

  template <detail::sdpa_element T, queue Queue>
    requires(std::same_as<typename Queue::memory_type, M>&& detail::sdpa_engine<Engine, Queue>)
  saved forward(plan const& p, basic_allocator<M>& scratch, call_params const& n, view<T const, 3, M> q,
                std::span<kv_views<T, M> const> keys, attention_state<T, M> state, Queue const& queue)
  const {
    check(q.extent(2), state.out.extent(2), n.scale);
    for (detail::sdpa_batch const& b : p.batches)
      for (gqa_range const& g : uniform_gqa(n.heads)) {
        auto const& kv = keys[std::size_t(b.k_tensor)];
        detail::sdpa_call<T, M> call(b, g, q.extent(2), state.out.extent(2), false, false);
        call.read(detail::sdpa_q, of_rows(q, b, g));
        call.read(detail::sdpa_k, of_keys(kv.k, b, g));
        call.read(detail::sdpa_v, of_keys(kv.v, b, g));
        call.arguments.scale = float(n.scale);
        attention_state<T, M> const to{of_rows(state.out, b, g), of_rows(state.lse, b, g)};
        call.run(
            *engine_, scratch, queue, [](auto const&) {},
            [&](auto const& room) {
              auto const rows = call.rows(room, false);
              detail::sdpa_shape const& s = call.shape;
              queue.for_each(std::array{s.batch, s.rows, s.q_heads, s.value_dim / detail::four_elements<T>::count},
                             detail::out_into_state<T, M>{rows, to, room.out.tensor, room.stats.tensor});
              queue.for_each(std::array{s.batch, s.rows, s.q_heads}, detail::lse_into_state<M>{rows, to.lse, room.stats.tensor});
            });
      }
    return {};
  }

  template <detail::sdpa_element T, queue Queue>
    requires(std::same_as<typename Queue::memory_type, M>&& detail::sdpa_engine<Engine, Queue>)
  void backward(plan const& p, basic_allocator<M>& scratch, call_params const& n, std::span<query_grad<T, M> const> queries,
                std::span<key_grad<T, M> const> keys, saved const&, Queue const& queue) const {
    for (detail::sdpa_batch const& b : p.batches)
      for (gqa_range const& g : uniform_gqa(n.heads)) {
        auto const& of_q = queries[std::size_t(b.q_tensor)];
        auto const& of_k = keys[std::size_t(b.k_tensor)];
        check(of_q.q.extent(2), of_k.v.extent(2), n.scale);
        detail::sdpa_call<T, M> call(b, g, of_q.q.extent(2), of_k.v.extent(2), true, how_.deterministic);
        call.read(detail::sdpa_q, of_rows(of_q.q, b, g));
        call.read(detail::sdpa_k, of_keys(of_k.k, b, g));
        call.read(detail::sdpa_v, of_keys(of_k.v, b, g));
        call.read(detail::sdpa_out, of_rows(of_q.out, b, g));
        call.read(detail::sdpa_dout, of_rows(of_q.dout, b, g));
        call.arguments.scale = float(n.scale);
        call.run(
            *engine_, scratch, queue,
            [&](auto const& room) {
              queue.for_each(room.stats.tensor.extents,
                             detail::lse_to_stats<M>{call.rows(room, false), of_rows(of_q.lse, b, g), room.stats.tensor});
            },
            [&](auto const& room) {
              index_t const batch = call.shape.batch;
              add<T>(queue, batch, call.rows(room, false), room.dq.tensor, of_rows(of_q.dq, b, g));
              add<T>(queue, batch, call.rows(room, true), room.dk.tensor, of_keys(of_k.dk, b, g));
              add<T>(queue, batch, call.rows(room, true), room.dv.tensor, of_keys(of_k.dv, b, g));
            });
      }
  }

  /// Bytes that a call takes from the allocator at once. It asks cuDNN about dense tensors, so it makes the plans of those. Without a
  /// queue: unsupported. That is said when it is called, because nvcc compiles such calls of objects that only might be made.
  template <detail::sdpa_element T, class Queue = detail::some_queue<M>>
  index_t scratch_bytes(plan const& p, heads const& h, index_t dim, index_t value_dim,
                        [[maybe_unused]] Queue const& queue = {}) const {
    if constexpr (std::same_as<Queue, detail::some_queue<M>>)
      fail({errc::unsupported, "the workspace of cuDNN is a matter of the device, and no queue was named",
            "Give scratch_bytes the queue, as last argument", "cudnn"});
    else
      return most_scratch<T>(p, h, dim, value_dim, queue);
  }

private:
  template <class T, class Queue>
  index_t most_scratch(plan const& p, heads const& h, index_t dim, index_t value_dim, Queue const& queue) const {
    index_t most = 0;
    for (detail::sdpa_batch const& b : p.batches)
      for (gqa_range const& g : uniform_gqa(h))
        for (bool const backward : {false, true}) {
          detail::sdpa_call<T, M> call(b, g, dim, value_dim, backward, how_.deterministic);
          view<T const, 3, M> const query(nullptr, {b.q_span(), h.q_count, dim}), key(nullptr, {b.k_span(), h.kv_count, dim});
          view<T const, 3, M> const out(nullptr, {b.q_span(), h.q_count, value_dim}),
              value(nullptr, {b.k_span(), h.kv_count, value_dim});
          call.read(detail::sdpa_q, query.narrow(1, g.q_begin, g.q_count));
          call.read(detail::sdpa_k, key.narrow(1, g.kv_begin, g.kv_count));
          call.read(detail::sdpa_v, value.narrow(1, g.kv_begin, g.kv_count));
          if (backward) call.read(detail::sdpa_out, out.narrow(1, g.q_begin, g.q_count));
          if (backward) call.read(detail::sdpa_dout, out.narrow(1, g.q_begin, g.q_count));
          basic_byte_counter<M> count;
          static_cast<void>(detail::sdpa_room<T, M>(count, b, call.shape, engine_->workspace_bytes(call.shape, queue)));
          most = max(most, count.bytes());
        }
    return most;
  }
  template <class V>
  static V of_rows(V const& v, detail::sdpa_batch const& b, gqa_range const& g) {
    return v.data ? v.rows(b.q, b.q_span()).narrow(1, g.q_begin, g.q_count) : v;
  }
  template <class V>
  static V of_keys(V const& v, detail::sdpa_batch const& b, gqa_range const& g) {
    return v.data ? v.rows(b.k, b.k_span()).narrow(1, g.kv_begin, g.kv_count) : v;
  }

  static void check(index_t dim, index_t value_dim, double scale) {
    if (dim % 8 != 0 || value_dim % 8 != 0 || dim > 256 || value_dim > 256)
      fail({errc::unsupported,
            "cuDNN takes head dimensions that are multiples of 8, up to 256; these are " + std::to_string(dim) + " and " +
                std::to_string(value_dim),
            detail::sdpa_remedy, "cudnn"});
    if (!(scale > 0))
      fail({errc::unsupported, "cuDNN is asked for positive scales alone, this one is " + std::to_string(scale),
            detail::sdpa_remedy, "cudnn"});
  }

  /// A gradient that is wanted.
  template <class T, class Queue>
  static void add(Queue const& queue, index_t batch, detail::sequence_rows<M> const& rows, view<T const, 3, M> from,
                  view<float, 3, M> to) {
    if (!to.data) return;
    queue.for_each(std::array{batch, rows.length, to.extent(1), to.extent(2) / detail::four_elements<T>::count},
                   detail::add_gradient<T, M>{rows, from, to});
  }

  Engine* engine_;
  cudnn_options how_;
};

/// The engine changes no bit.
template <class M, class Engine>
inline constexpr bool equal_by_features<basic_cudnn<M, Engine>> = true;

} // namespace sp
