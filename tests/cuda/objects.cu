// Objects over cuda_local, compiled by nvcc: every schedule of the ring, Ulysses, USP, splits, losses and reductions make code for a device.
// Compiled only: nothing here runs. For every element type.
#include <sp/conv1d.hpp>
#include <sp/cuda.hpp>
#include <sp/cudnn.hpp>
#include <sp/fusion.hpp>
#include <sp/gather_loss.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/reference.hpp>
#include <sp/relayout.hpp>
#include <sp/usp.hpp>
#include <sp/vision.hpp>

namespace {

using memory = sp::device_memory;
using context = sp::context<sp::cuda_queue>;
template <class T>
using tensor = sp::view<T, 3, memory>;

template <class T, class Object>
void attend(Object const& object, sp::batch const& b, context const& ctx, tensor<T> x) {
  auto prepared = object.prepare(b, ctx);
  object.refresh(prepared, b, ctx);
  auto saved = object.forward(prepared, ctx, x, x, x, x);
  object.backward(prepared, ctx, std::move(saved), x, x, x, x, x, x, x, x);
}

template <class T>
void all_objects(sp::cuda_local const& ranks, sp::batch const& b, context const& ctx, tensor<T> x) {
  using kernel = sp::basic_reference<memory, sp::softcap, sp::alibi, sp::dropout>;
  kernel const k{sp::softcap{1}, sp::alibi{}, sp::dropout{0.5}};
  attend<T>(sp::ring_attention{ranks, k, {.mask = sp::causal()}}, b, ctx, x);
  attend<T>(sp::ulysses_attention{ranks, k}, b, ctx, x);
  sp::mesh const mesh{sp::axis::ring{2}, sp::axis::ulysses{2}};
  attend<T>(sp::ulysses_attention{mesh.ulysses(ranks), sp::ring_attention{mesh.ring(ranks), k}}, b, ctx, x);
  sp::split(ctx.queue, b, x, x);
}

/// A causal convolution with all that it takes and gives.
template <class T>
void convolve(sp::cuda_local const& ranks, sp::batch const& b, context const& ctx, tensor<T> x, sp::view<T, 2, memory> w) {
  using A = sp::accumulate_t<T>;
  sp::causal_conv1d const conv{ranks, {.width = 4, .activation = sp::activation::silu, .checks = 2}};
  sp::view<T, 1, memory> const bias;
  tensor<A> const gradients;
  auto const p = conv.prepare(b, ctx);
  auto saved = conv.forward(p, ctx, {.x = x, .weights = w, .bias = bias, .out = x, .initial_state = x, .final_state = x});
  sp::conv1d_gradients<T, memory> g{.x = x, .weights = w, .bias = bias, .dout = x, .dx = x, .initial_state = x};
  g.dinitial_state = gradients, g.dfinal_state = gradients;
  conv.backward(p, ctx, std::move(saved), g);
}

/// Text and visual features among the tokens of a decoder.
template <class T>
void fuse(sp::cuda_local const& ranks, sp::batch const& b, context const& ctx, sp::view<T, 2, memory> x,
          sp::view<int, 1, memory> labels) {
  sp::fusion const fusion{ranks, sp::splice::placeholder{.token = 1, .newline = true}, {.checks = 2}};
  auto const fused = fusion.prepare(ctx, {}, b, b, {}, sp::contiguous{});
  fusion.forward(fused, ctx, {.text = x, .visual = x, .learned = x, .hidden = x});
  fusion.backward(fused, ctx, {.dhidden = x, .dtext = x, .dvisual = x, .dlearned = x});
  sp::deepstack const deepstack{fusion};
  deepstack.forward(fused, ctx, x, x);
  deepstack.backward(fused, ctx, x, x);
  fused.labels(ctx.queue, labels);
  fused.loss_weights(ctx.queue, labels, sp::view<float, 1, memory>());
  fused.visual_mask(ctx.queue, labels);
  fused.positions_3d(ctx.queue, {});
}

/// Prefix tokens on every rank, by either contract.
template <class T>
void vision(sp::cuda_local const& ranks, sp::batch const& b, context const& ctx, tensor<T> x) {
  sp::ring_attention const inside{ranks, sp::basic_reference<memory>{}, {.mask = sp::full()}};
  attend<T>(sp::vit_attention{ranks, inside}, b, ctx, x);
  attend<T>(sp::vit_attention{ranks, inside, sp::same{}, {.prefix = 4}}, b, ctx, x);
}

/// What surrounds calls of cuDNN.
template <class T>
void by_cudnn(sp::cudnn const& kernel, sp::cudnn::plan const& plan, context const& ctx, tensor<T> x) {
  kernel.forward<T>(plan, *ctx.scratch, {}, x, {}, {}, ctx.queue);
  kernel.backward<T>(plan, *ctx.scratch, {}, {}, {}, {}, ctx.queue);
  static_cast<void>(kernel.scratch_bytes<T>(plan, {}, 64, 64, ctx.queue));
}

} // namespace

void compiled(sp::cuda_local const& ranks, sp::batch const& b, context const& ctx, sp::view<float, 1, memory> x,
              sp::view<int, 1, memory> labels, sp::view<sp::index_t, 1, memory> positions, sp::cudnn const& cudnn,
              sp::cudnn::plan const& plan) {
  all_objects<sp::bf16>(ranks, b, ctx, {});
  by_cudnn<sp::bf16>(cudnn, plan, ctx, {});
  by_cudnn<sp::fp16>(cudnn, plan, ctx, {});
  attend<sp::bf16>(sp::ring_attention{ranks, cudnn}, b, ctx, {});
  all_objects<float>(ranks, b, ctx, {});
  all_objects<sp::fp16>(ranks, b, ctx, {});
  all_objects<double>(ranks, b, ctx, {});
  fuse<float>(ranks, b, ctx, {}, labels);
  fuse<sp::bf16>(ranks, b, ctx, {}, labels);
  vision<sp::bf16>(ranks, b, ctx, {});
  convolve<float>(ranks, b, ctx, {}, {});
  convolve<sp::bf16>(ranks, b, ctx, {}, {});
  sp::all_reduce(ranks, x, ctx).wait();
  sp::barrier(ranks, ctx).wait();
  sp::gather_loss const loss{ranks, sp::summed{}, sp::loss_options{.checks = 3}};
  auto const result = loss.forward(ctx, x, labels);
  loss.backward(ctx, result, labels, x);
  loss.backward(ctx, loss.forward(ctx, x, labels, x), labels, x, x);
  static_cast<void>(sp::read(ctx.queue, result));
  static_cast<void>(sp::packed{sp::read(ctx.queue, labels)});
  sp::positions(ctx.queue, b, positions);
  sp::loss_weights(ctx.queue, b, labels, x, -100);
}
