// Instantiates the objects of sp as consumers do, for warnings of templates: every element type, kernel and communicator.
// Never linked, never run: tests/tools/headers.py compiles it with the warnings that its headers are held to.
#include <sp/auto_wrap.hpp>
#include <sp/backend/cudnn/kernel.hpp>
#include <sp/batch.hpp>
#include <sp/blockwise.hpp>
#include <sp/chaos.hpp>
#include <sp/checksummed.hpp>
#include <sp/conv1d.hpp>
#include <sp/counting.hpp>
#include <sp/cpu.hpp>
#include <sp/cuda_flash.hpp>
#include <sp/dense_mask.hpp>
#include <sp/diagnosis.hpp>
#include <sp/fusion.hpp>
#include <sp/gather_loss.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/linear.hpp>
#include <sp/linear_slot.hpp>
#include <sp/local.hpp>
#include <sp/mesh.hpp>
#include <sp/multimodal.hpp>
#include <sp/reference.hpp>
#include <sp/relayout.hpp>
#include <sp/ring.hpp>
#include <sp/route.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>
#include <sp/usp.hpp>
#include <sp/vision.hpp>
#include <sp/workers.hpp>
#if __has_include(<cuda_runtime_api.h>)
#include <sp/cuda.hpp>
#include <sp/cudnn.hpp>
#endif
#if __has_include(<nccl.h>)
#include <sp/nccl.hpp>
#endif
#if __has_include(<mpi.h>)
#include <sp/mpi.hpp>
#endif

namespace {

/// Everything a trainer asks of an attention object, by position and by name, with prepared geometry and without.
template <class T, class Attention>
void attend(Attention const& attention, sp::batch const& batch, sp::allocator& memory) {
  sp::view<T, 3> x;
  sp::attention_extras<T> extras;
  auto saved = attention.forward(batch, x, x, x, x, extras);
  attention.backward(batch, std::move(saved), x, x, x, x, x, x, x, x, extras);
  auto prepared = attention.prepare(batch, batch, sp::window(4));
  attention.infer(prepared, sp::context(memory, memory), x, x, x, x);
  attention.infer(batch, x, x, x, x);
  auto named = attention.forward(batch, {.q = x, .k = x, .v = x, .out = x});
  attention.backward(batch, std::move(named), {.q = x, .k = x, .v = x, .out = x, .dout = x, .dq = x, .dk = x, .dv = x});
  attention.infer(batch, {.q = x, .k = x, .v = x, .out = x});
  (void)(attention.template scratch_bytes<T>(prepared, {}) + attention.template saved_bytes<T>(prepared, {}));
  sp::context const on_queue(sp::inline_queue{}, memory, memory);
  attention.infer(*attention.prepared_for(batch), on_queue, x, x, x, x);
  attention.infer(prepared, on_queue, {.q = x, .k = x, .v = x, .out = x});
  prepared = attention.prepare(batch, on_queue);
  attention.refresh(prepared, batch, batch, sp::window(4), on_queue);
}

/// What stands for cuDNN.
struct no_cudnn {
  template <class Queue>
  static sp::index_t workspace_bytes(sp::detail::sdpa_shape const&, Queue const&) {
    return 0;
  }
  template <class Queue>
  static void run(sp::detail::sdpa_shape const&, sp::detail::sdpa_arguments const&, void*, Queue const&) {}
};

template <class T>
struct whole {
  using memory_type = sp::host_memory;
  void forward(sp::whole_call<T> const&) const {}
  void backward(sp::whole_grad<T> const&) const {}
};

template <class T>
struct of_blocks {
  using memory_type = sp::host_memory;
  void forward(sp::block_call<T> const&) const {}
  void backward(sp::block_grad<T> const&) const {}
};

/// One rank's part: rings, Ulysses around each kind of kernel, and the hybrid.
template <class T, class Comm, class... Features>
void train(Comm const& ranks, sp::batch const& batch, sp::allocator& memory, Features... features) {
  attend<T>(sp::ring_attention{ranks, sp::cpu{features...}}, batch, memory);
  attend<T>(sp::ulysses_attention{ranks, sp::ring_attention{ranks, sp::reference{}}}, batch, memory);
  attend<T>(sp::ulysses_attention{ranks, whole<T>{}, {}, {.keep = sp::keep::output, .head_chunks = 2}}, batch, memory);
  attend<T>(sp::ring_attention{ranks, sp::blockwise{of_blocks<T>{}}}, batch, memory);
}

/// A pool of threads as callers have it.
struct pool_of_threads {
  int threads() const { return 2; }
  template <class Call>
  void parallel(sp::index_t n, Call const& call) {
    for (sp::index_t i = 0; i < n; ++i) call(i);
  }
};

/// Kernels on several threads, and all that a queue does.
template <class Queue>
void on_threads(sp::threads const& ranks, sp::batch const& batch, sp::allocator& memory, Queue const& queue) {
  attend<float>(sp::ring_attention{ranks, sp::on_queue{queue, sp::cpu{}}}, batch, memory);
  sp::view<float, 2> x;
  queue.for_each(x.extents, [x](sp::index_t i, sp::index_t j) { x(i, j) = 0; });
  queue.sums(
      x.extent(0), x.extent(1), [x](sp::index_t i, sp::index_t j) { return x(i, j); }, [](sp::index_t, float) {});
  queue.parallel(3, [](sp::index_t, int) {});
  queue.copy({}, {});
  queue.wait(queue.lane().record());
}

/// Groups of a mesh, and a communicator that is its group already.
template <class T>
void along_axes(sp::threads const& ranks, sp::batch const& batch, sp::allocator& memory) {
  sp::mesh const mesh{sp::axis::ulysses{2}, sp::axis::ring{2}};
  attend<T>(sp::ulysses_attention{mesh.ulysses(ranks), sp::ring_attention{mesh.ring(ranks), sp::reference{}}}, batch, memory);
  attend<T>(sp::ring_attention{mesh.adopt<sp::axis_kind::ring>(ranks), sp::reference{}}, batch, memory);
  attend<T>(sp::ring_attention{sp::solo{}, sp::reference{}}, batch, memory);
  sp::vit_attention const sums{ranks, sp::ring_attention{ranks, sp::reference{}, {.mask = sp::full()}}};
  sp::vit_attention const equal{ranks, sums.inner(), sp::same{}, {.prefix = 4}};
  attend<T>(sums, batch, memory);
  attend<T>(equal, batch, memory);
  sp::view<T, 3> const x;
  auto const saved = equal.forward(batch, x, x, x, x);
  (void)sp::kernel_results(saved);
}

/// A model with every kind of slot.
template <class T>
struct model {
  std::vector<sp::attention_slot<sp::vision_role, T>> vision;
  sp::attention_slot<sp::text_role, T>* text = nullptr;
  sp::fusion_slot<sp::splice::one_to_one, T> merge{{.image = 1}};
  sp::deepstack_slot<T> deep;
  sp::conv1d_slot<T> mix;
  sp::linear_slot<sp::scalar_decay, T> recall;
};
template <class T>
auto members(model<T>& m) {
  return sp::parts("vision", m.vision, "text", m.text, "merge", m.merge, "deep", m.deep, "mix", m.mix, "recall", m.recall);
}

/// All calls of the slots of one kind, with a batch and with what was prepared.
template <class Slot, class Shape>
void call_layer(Slot const& slot, sp::batch const& b, sp::context<> const& c, Shape const& shape) {
  typename Slot::forward_type const in{};
  typename Slot::backward_type const out{};
  slot.backward(b, slot.forward(b, in), out);
  slot.infer(b, in);
  slot.backward(b, c, slot.forward(b, c, in), out);
  auto p = slot.prepare(b);
  p = slot.prepare(b, c);
  slot.infer(p, c, in);
  slot.infer(b, c, in);
  slot.backward(p, c, slot.forward(p, c, in), out);
  (void)(slot.scratch_bytes(b, shape) + slot.saved_bytes(b, shape));
}

/// All calls of slots, with a batch and with what was prepared.
template <class T, class Comm, class Kernel>
void wrap(Comm const& ranks, sp::batch const& b, sp::allocator& memory, Kernel const& kernel) {
  model<T> m;
  (void)sp::inspect(sp::auto_wrap(m, ranks, kernel, {.text = {.strategy = sp::strategy::usp}})).text();
  sp::auto_wrap(m, sp::mesh(sp::axis::ulysses{2}), ranks, sp::role_kernels{kernel, kernel}, {}, sp::same{});
  sp::context const c(memory, memory);
  sp::view<T, 3> x;
  sp::forward_operands<T> const in{.q = x, .k = x, .v = x, .out = x};
  sp::backward_operands<T> const out{.q = x, .k = x, .v = x, .out = x, .dout = x, .dq = x, .dk = x, .dv = x};
  auto calls = [&](auto slot) {
    auto saved = slot.forward(b, in);
    (void)saved.template results<int>();
    slot.backward(b, std::move(saved), out);
    slot.infer(b, in);
    auto p = slot.prepare(b, sp::window(4), c);
    slot.refresh(p, b, c);
    slot.backward(p, c, slot.forward(p, c, in), out);
    slot.infer(b, c, in);
    (void)(slot.scratch_bytes(b, {}) + slot.saved_bytes(b, {}));
  };
  calls(m.vision[0]);
  calls(*m.text);
  call_layer(m.mix, b, c, sp::index_t{8});
  call_layer(m.recall, b, c, sp::linear_shape{});
  sp::view<T, 2> y;
  auto const fused = m.merge.prepare(c, {}, b, b, {}, sp::zigzag{});
  m.merge.forward(fused, {.text = y, .visual = y, .hidden = y});
  m.merge.backward(fused, {.dhidden = y, .dtext = y, .dvisual = y});
  m.deep.forward(fused, y, y);
  m.deep.backward(fused, y, y);
}

/// Text and visual features of one element type, by position and by name, behind every splice.
template <class T, class Splice>
void fuse(sp::threads const& ranks, sp::batch const& batch, sp::allocator& memory, Splice const& splice) {
  sp::fusion const fusion(ranks, splice, {.limit = 4});
  sp::context const c(memory, memory);
  auto const fused = fusion.prepare(c, {}, batch, batch, {}, sp::zigzag{});
  sp::view<T, 2> x;
  fusion.forward(fused, c, x, x, x, x);
  fusion.backward(fused, c, x, x, x, x);
  fusion.forward(fused, c, {.text = x, .visual = x, .learned = x, .hidden = x});
  fusion.backward(fused, c, {.dhidden = x, .dtext = x, .dvisual = x, .dlearned = x});
  sp::deepstack const deepstack(fusion, {.layers = {0, 2}});
  deepstack.forward(fused, c, x, x);
  deepstack.backward(fused, c, x, x);
  fusion.forward(fused, {.text = x, .visual = x, .hidden = x});
  fusion.backward(fused, {.dhidden = x, .dtext = x, .dvisual = x});
  deepstack.forward(fused, x, x);
  deepstack.backward(fused, x, x);
  (void)(fusion.template scratch_bytes<T>(fused, 4) + deepstack.template scratch_bytes<T>(fused, 4));
  sp::view<std::int32_t, 1> labels;
  fused.labels(labels);
  fused.loss_weights(labels, sp::view<float, 1>());
  fused.visual_mask(labels);
  fused.positions({});
  fused.positions_3d({}, {.time_step = 2});
}

/// A queue of a device as far as ranks see it.
struct device_queue {
  using memory_type = sp::device_memory;
  static constexpr bool finished_on_return = false;
  using event = int;
  template <std::size_t Rank, class Body>
  void for_each(std::array<sp::index_t, Rank>, Body const&) const {}
  template <class Term, class Store>
  void sums(sp::index_t, sp::index_t, Term const&, Store const&) const {}
  void copy(std::span<sp::piece const>, std::span<sp::piece const>) const {}
  void upload(std::byte*, std::span<std::byte const>) const {}
  event record() const { return 0; }
  void wait(event) const {}
  device_queue lane() const { return {}; }
  void synchronize() const {}
  template <class Kernel>
  void launch(Kernel const&, sp::index_t, std::size_t) const {}
  friend bool operator==(device_queue const&, device_queue const&) = default;
};

/// A kernel that keeps a table in the memory of its queue.
struct with_table {
  using memory_type = sp::device_memory;
  using saved = sp::nothing;
  using plan = sp::table<sp::index_t, sp::device_memory>;
  template <class Queue>
  plan prepare(sp::problem const& p, sp::context<Queue> const& ctx) const {
    plan made;
    refresh(made, p, ctx);
    return made;
  }
  template <class Queue>
  void refresh(plan& made, sp::problem const& p, sp::context<Queue> const& ctx) const {
    made.assign(ctx, {sp::index_t(p.mask.size())});
  }
  template <class T, class Queue>
  saved forward(plan const&, sp::basic_allocator<memory_type>&, sp::call_params const&, sp::view<T const, 3, memory_type>,
                std::span<sp::kv_views<T, memory_type> const>, sp::attention_state<T, memory_type>, Queue const&) const;
  template <class T, class Queue>
  void backward(plan const&, sp::basic_allocator<memory_type>&, sp::call_params const&,
                std::span<sp::query_grad<T, memory_type> const>, std::span<sp::key_grad<T, memory_type> const>, saved const&,
                Queue const&) const;
};

/// Prepared once, refreshed for every batch.
void prepare_on(sp::local<device_queue> const& ranks, sp::batch const& batch, sp::basic_allocator<sp::device_memory>& memory) {
  sp::context const ctx(ranks.queue(), memory, memory);
  sp::ring_attention const ring{ranks, with_table{}};
  auto prepared = ring.prepare(batch, ctx);
  ring.refresh(prepared, batch, ctx);
  sp::ulysses_attention const around{ranks, ring};
  auto inside = around.prepare(batch, sp::window(4), ctx);
  around.refresh(inside, batch, ctx);
}

/// What the host does of cuda_flash.
template <class T, class Flash>
void attend_by_flash(sp::local<device_queue> const& ranks, Flash const& flash, sp::batch const& batch,
                     sp::basic_allocator<sp::device_memory>& memory) {
  sp::context const ctx(ranks.queue(), memory, memory);
  sp::ring_attention const ring{ranks, flash};
  auto prepared = ring.prepare(batch, ctx);
  ring.refresh(prepared, batch, ctx);
  sp::view<T, 3, sp::device_memory> const x;
  ring.backward(prepared, ctx, ring.forward(prepared, ctx, x, x, x, x), x, x, x, x, x, x, x, x);
}

/// All that ranks over a queue do.
void order(sp::local<device_queue> const& ranks) {
  auto const half = ranks.split(0, 0);
  half.barrier();
  half.exchange({}).wait();
  half.publish("show", {}).release();
  sp::view<float, 1, sp::device_memory> const values;
  half.all_reduce(values);
  half.reduce_scatter({&values, 1}, values);
  half.queue().synchronize();
  half.abort({});
}
/// What a pool of a device would be.
class device_memory_of final : public sp::basic_allocator<sp::device_memory> {
public:
  void* allocate(std::size_t) override { return nullptr; }
  void deallocate(void*, std::size_t) noexcept override {}
};

/// A ring or Ulysses of them, for tensors that the host does not read.
template <class T, class Object>
void attend_on_devices(Object const& attention, sp::local<device_queue> const& ranks, sp::batch const& batch) {
  device_memory_of memory;
  auto const prepared = attention.prepare(batch);
  sp::context const ctx(ranks.queue(), memory, memory);
  sp::view<T, 3, sp::device_memory> const x;
  attention.backward(prepared, ctx, attention.forward(prepared, ctx, x, x, x, x), x, x, x, x, x, x, x, x);
  (void)(attention.template scratch_bytes<T>(prepared, {}) + attention.template scratch_bytes<T>(prepared, {}, ranks.queue()));
  (void)sp::route::of_rows(
      0, 1, 0, 0, [](int, auto&&) {}, [](int, auto&&) {});
}

/// What surrounds calls of cuDNN.
template <class T>
void compute_by_cudnn(device_queue const& queue) {
  device_memory_of memory;
  no_cudnn engine;
  sp::basic_cudnn<sp::device_memory, no_cudnn> const kernel(engine, {.deterministic = true});
  auto const plan = kernel.prepare({});
  auto const saved = kernel.template forward<T>(plan, memory, {}, {}, {}, {}, queue);
  kernel.template backward<T>(plan, memory, {}, {}, {}, saved, queue);
  (void)kernel.template scratch_bytes<T>(plan, {}, 64, 64, queue);
}

/// Data movement and losses.
template <class T, class Comm>
void move_and_lose(Comm const& ranks, sp::batch const& batch, sp::allocator& memory) {
  sp::view<T, 1> losses;
  sp::view<T, 3> x;
  sp::view<std::int32_t, 1> labels;
  sp::split(batch, x, x);
  sp::gather(ranks, batch, x, x);
  sp::shifted_labels(batch, labels, labels, -100);
  sp::relayout moves(batch.layout(), batch.layout(), {}, 0);
  moves.apply(ranks, sp::view<T const, 3>(x), x, memory);
  moves.apply_transposed(ranks, sp::view<T const, 3>(x), x, memory);
  static_cast<void>(sp::key_cast(batch.layout(), batch.layout(), {}, 0).table(batch.layout()));
  static_cast<void>(sp::query_cast(batch.layout(), batch.layout(), {}, 0).table(batch.layout()));
  sp::mapping const all = sp::identity_map(batch.layout().docs().length());
  auto const there = sp::route::between(batch.layout(), batch.layout(), {&all, 1}, ranks.rank()), back = there.transposed();
  sp::view<sp::accumulate_t<T>, 3> sums;
  sp::routed const keys(there, x, x);
  sp::routed const grads(back, sums, x, sp::head_cut{}, sp::landing::sum_to);
  sp::exchange(ranks, "hop", memory, keys, grads).wait();
  sp::exchange_with_everybody(ranks, "all", memory, keys).wait();
  (void)sp::exchange_scratch(ranks, keys, grads);
  sp::gather_loss loss{ranks, sp::averaged{2}};
  loss.backward(loss.forward(losses, labels), labels, losses);
  loss.backward(loss.forward(losses, labels, losses), labels, losses, losses);
  sp::context const ctx(memory, memory);
  auto who_lands = moves.transposed_table(ctx);
  moves.assign_transposed_table(who_lands, ctx);
  auto const queued = loss.forward(ctx, losses, labels);
  loss.backward(ctx, queued, labels, losses);
  loss.backward(ctx, sp::read(ctx.queue, queued), labels, losses);
  sp::view<double, 1> const numbers;
  sp::all_reduce(ranks, numbers, ctx).wait();
  sp::reduce_scatter(ranks, {&numbers, 1}, numbers, ctx).wait();
  sp::broadcast(ranks, {}, 0, ctx.queue).wait();
  sp::barrier(ranks, ctx).wait();
  sp::gather_tokens<Comm>(ranks).backward(batch, sp::view<T const, 3>(x), x);
}

/// Images and their merged tokens.
void look(sp::images const& pictures) {
  sp::batch const patches(pictures.windows(), sp::grained{sp::nested{sp::zigzag{}, 2}, pictures.grain()}, 0, 2);
  sp::view<sp::index_t, 2> positions;
  sp::patch_positions(pictures, patches, positions);
  static_cast<void>(sp::batch(sp::merged(patches, 4).docs(), sp::grained{sp::striped{}, 2, 1}, 0, 2, {sp::shapes::padded}));
}

/// A convolution by name, with prepared geometry and without.
template <class T, class Comm, class Queue>
void convolve(Comm const& comm, sp::batch const& batch, sp::context<Queue> const& ctx) {
  using M = typename Queue::memory_type;
  sp::causal_conv1d const conv{comm, {.width = 4, .activation = sp::activation::silu, .checks = 2}};
  sp::view<T, 2, M> x;
  sp::view<T, 3, M> heads;
  auto const prepared = conv.prepare(batch, ctx);
  auto saved = conv.forward(prepared, ctx, {.x = x, .weights = x, .out = x, .initial_state = heads, .final_state = heads});
  conv.backward(prepared, ctx, std::move(saved), {.x = heads, .weights = x, .dout = heads, .dx = heads, .initial_state = heads});
  conv.infer(prepared, ctx, {.x = heads, .weights = x, .out = heads});
  static_cast<void>(conv.template scratch_bytes<T>(prepared, 8, ctx.queue) + conv.template saved_bytes<T>(prepared, 8));
  if constexpr (std::is_same_v<M, sp::host_memory>) {
    auto short_form = conv.forward(batch, {.x = x, .weights = x, .out = x});
    conv.backward(batch, std::move(short_form), {.x = x, .weights = x, .dout = x, .dx = x});
    conv.infer(batch, {.x = x, .weights = x, .out = x});
  }
}

/// Linear attention by name, with prepared geometry and without.
template <class T, class Kernel>
void remember(sp::threads const& ranks, sp::batch const& batch, sp::allocator& memory, Kernel const& kernel) {
  sp::linear_attention const attention{ranks, kernel, {.checks = 2}};
  sp::context const ctx(memory, memory);
  sp::view<T, 3> x;
  sp::view<sp::accumulate_t<T>, 2> gate;
  sp::view<sp::accumulate_t<T>, 4> state;
  auto const prepared = attention.prepare(batch);
  auto saved = attention.forward(
      prepared, ctx, {.q = x, .k = x, .v = x, .gates = {gate}, .out = x, .initial_state = state, .final_state = state});
  sp::linear_gradients<T, Kernel::gates> g{.q = x, .k = x, .v = x, .gates = {gate}, .dout = x, .dq = x, .dk = x, .dv = x};
  g.dgates[0] = gate, g.dinitial_state = state, g.dfinal_state = state;
  attention.backward(prepared, ctx, std::move(saved), g);
  attention.infer(batch, {.q = x, .k = x, .v = x, .gates = {gate}, .out = x});
  auto short_form = attention.forward(batch, {.q = x, .k = x, .v = x, .gates = {gate}, .out = x});
  attention.backward(batch, std::move(short_form), g);
  static_cast<void>(attention.template scratch_bytes<T>(prepared, {}) + attention.template saved_bytes<T>(prepared, {}));
  static_cast<void>(attention.template reason<T>(prepared, {}));
}

template <class T>
void everything(sp::threads const& ranks, sp::batch const& batch, sp::allocator& memory) {
  train<T>(ranks, batch, memory, sp::softcap{30}, sp::dropout{0.1});
  along_axes<T>(ranks, batch, memory);
  move_and_lose<T>(ranks, batch, memory);
  fuse<T>(ranks, batch, memory, sp::splice::placeholder{1});
  convolve<T>(ranks, batch, sp::context(memory, memory));
  remember<T>(ranks, batch, memory, sp::scalar_decay{});
  (void)sp::split_qkv(sp::view<T, 2>{}, 2, 1);
  (void)sp::split_qkv(sp::view<T, 3>{}, 2, 1);
  (void)sp::split_qkv(sp::view<T, 4>{});
}

} // namespace

void instantiate(sp::threads const& ranks, sp::batch const& batch, sp::ledger& counts) {
  look({});
  everything<float>(ranks, batch, batch.memory());
  everything<double>(ranks, batch, batch.memory());
  everything<sp::bf16>(ranks, batch, batch.memory());
  everything<sp::fp16>(ranks, batch, batch.memory());
  remember<float>(ranks, batch, batch.memory(), sp::gated_delta{});
  remember<double>(ranks, batch, batch.memory(), sp::gated_linear{});
  attend<float>(sp::ring_attention{ranks, sp::cpu{sp::alibi{}}}, batch, batch.memory());
  fuse<float>(ranks, batch, batch.memory(), sp::splice::one_to_one{1});
  fuse<float>(ranks, batch, batch.memory(), sp::splice::between{1, 2});
  fuse<float>(ranks, batch, batch.memory(), sp::splice::prefix{});
  fuse<float>(ranks, batch, batch.memory(), sp::splice::prefix_lm{sp::splice::one_to_one{1}, 2});
  fuse<float>(ranks, batch, batch.memory(), sp::splice::image_spans{sp::splice::between{1, 2}});
  wrap<float>(ranks, batch, batch.memory(), sp::cpu{});
  wrap<double>(ranks, batch, batch.memory(), sp::reference{});
  sp::local<device_queue>::run(2, [&](sp::local<device_queue> const& devices) {
    order(devices);
    (void)sp::packed(sp::read(devices.queue(), sp::view<int, 1, sp::device_memory>{}));
    sp::basic_reference<sp::device_memory> const kernel;
    attend_on_devices<float>(sp::ring_attention{devices, kernel}, devices, batch);
    attend_on_devices<sp::bf16>(sp::ring_attention{devices, kernel}, devices, batch);
    attend_on_devices<sp::bf16>(sp::ulysses_attention{devices, kernel}, devices, batch);
    compute_by_cudnn<sp::bf16>(devices.queue());
    compute_by_cudnn<sp::fp16>(devices.queue());
    sp::basic_workspace<sp::device_memory> memory(nullptr, 0);
    prepare_on(devices, batch, memory);
    convolve<float>(devices, batch, sp::context(devices.queue(), memory, memory));
    attend_by_flash<sp::bf16>(devices, sp::cuda_flash{}, batch, memory);
    attend_by_flash<sp::fp16>(
        devices, sp::cuda_flash{sp::flash_options{.deterministic = true, .blocks = 232}, sp::softcap{30}, sp::dropout{0.1}},
        batch, memory);
  });
  on_threads(ranks, batch, batch.memory(), sp::workers{2, {.ranks = 2}});
  pool_of_threads pool;
  on_threads(ranks, batch, batch.memory(), sp::workers_ref{pool});
  move_and_lose<float>(sp::solo{}, batch, batch.memory());
  move_and_lose<float>(sp::counting{ranks, counts}, batch, batch.memory());
  move_and_lose<float>(sp::checksummed{ranks}, batch, batch.memory());
  move_and_lose<float>(sp::chaos{ranks, sp::chaos_options{}}, batch, batch.memory());
#if __has_include(<cuda_runtime_api.h>)
  sp::cuda_queue const device(cudaStream_t{}, 0); // work for it is compiled by nvcc: tests/cuda/objects.cu
  sp::device_pool const pools[]{sp::device_pool(device), sp::device_pool(device, sp::device_pool_options{.peers = false}),
                                sp::device_pool(device, cudaMemPool_t{}), sp::device_pool(device, sp::device_memory_functions{})};
  device.upload(nullptr, std::as_bytes(std::span(pools)));
  device.lane().wait(device.record());
  static_cast<void>(device.capturing());
  static_cast<void>(device.named("", ""));
  device.reach(device, 0, 0);
  static_cast<void>(device.capture_turn().number());
  sp::cuda_local::run(
      1, [](auto const& rank) { rank.barrier(); }, {}, [&](int) { return device; });
#endif
#if __has_include(<nccl.h>)
  sp::nccl const devices(ncclComm_t{}, device,
                         {.abort_on_failure = true, .watch = true}); // exchanges are compiled by nvcc: link_nccl.cu
  devices.poll();
  devices.abort({});
  (void)devices.flight().recorded();
  (void)(devices.world_rank() + devices.world_size() + devices.rank() + devices.size());
  sp::native_sums const sums{devices};
  (void)sums.inner().rank();
#endif
#if __has_include(<mpi.h>)
  sp::mpi world{MPI_COMM_WORLD};
  move_and_lose<float>(world, batch, batch.memory());
  move_and_lose<float>(sp::mpi_shared{world}, batch, batch.memory());
  move_and_lose<float>(sp::mpi_device{MPI_COMM_WORLD, sp::inline_queue{}, batch.memory()}, batch, batch.memory());
#endif
  std::int32_t const flags[] = {1, 0};
  auto docs = sp::documents::from_padding_mask(std::span<std::int32_t const>(flags), 1, 2);
  (void)sp::documents::from_position_ids(std::span<std::int32_t const>(flags));
  (void)sp::documents::from_position_ids(std::span<std::uint16_t const>{}, 3);
  (void)sp::packed(std::span<std::int32_t const>(flags));
  (void)docs.padded(4);
}
