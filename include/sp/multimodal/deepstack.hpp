// Deepstack: features of vision layers are added to a decoder's hidden states at visual rows only, on the route of the fusion.
// One call behind each decoder layer that takes some; gradients go back the same way, those of hidden states pass unchanged.
#pragma once

#include <sp/multimodal/fusion.hpp>

namespace sp {

/// What a deepstack is made with.
struct deepstack_options {
  std::vector<index_t> layers{
      0, 1, 2};   ///< decoder layers behind which features are added: those of the i-th vision layer behind layers[i]
  int checks = 1; ///< as in fusion_options; they compare what was prepared from check level 2 on
};

/// Adds visual features to hidden states. As a group: of fused batches of any fusion over it; of a fusion: of its own only.
template <class Comm>
class deepstack {
  static_assert(detail::require_fusion_communicator<Comm>());

public:
  using memory_type = typename Comm::memory_type;

  explicit deepstack(Comm group, deepstack_options options = {}) : deepstack(std::move(group), std::move(options), 0) {}
  template <class Splice>
  explicit deepstack(fusion<Splice, Comm> const& of, deepstack_options options = {})
      : deepstack(of.group(), std::move(options), of.id_) {}

  [[nodiscard]] Comm const& group() const noexcept { return comm_; }
  /// Which features are added behind a decoder layer: an index into options().layers, -1 for none.
  [[nodiscard]] int at(index_t decoder_layer) const noexcept {
    for (std::size_t i = 0; i < options_.layers.size(); ++i)
      if (options_.layers[i] == decoder_layer) return int(i);
    return -1;
  }
  [[nodiscard]] deepstack_options const& options() const noexcept { return options_; }

  /// hidden (fused.tokens(), ...) += features (visual.tokens(), ...) at visual rows, where the fusion puts the visual features; other rows
  /// keep their values. Features lie as the visual features do. One exchange.
  template <class Queue, class T, int R>
  void forward(fused_batch const& f, context<Queue> const& ctx, detail::fused_in<Queue, T, R> features,
               detail::view_on<Queue, T, R> hidden) const {
    auto const range = detail::named_work(ctx.queue, "deepstack", ".forward");
    located(here(".forward"), [&] {
      features = detail::or_no_rows(features, f.visual_tokens(), hidden);
      detail::check_pass(options_.checks, comm_, here(".forward"), f.origin_.digest, hidden, ctx, [&] {
        check(f, detail::fused_rows{"features", features, f.visual_tokens()}, detail::fused_rows{"hidden", hidden, f.tokens()});
        detail::refuse_aliasing({{"hidden", hidden}}, {{"features", features}});
      });
      auto const* const tables = f.template tables<typename Queue::memory_type>();
      sp::exchange(comm_, "deepstack.forward", ctx, added(f, features, hidden, tables)).wait();
    });
  }

  /// dfeatures (visual.tokens(), ...) = dhidden (fused.tokens(), ...) at visual rows: 0 for rows that were dropped, the sum for those used
  /// several times. dhidden itself is the gradient of the hidden states that forward() was given, too.
  template <class Queue, class T, int R>
  void backward(fused_batch const& f, context<Queue> const& ctx, detail::fused_in<Queue, T, R> dhidden,
                detail::view_on<Queue, T, R> dfeatures) const {
    auto const range = detail::named_work(ctx.queue, "deepstack", ".backward");
    located(here(".backward"), [&] {
      dfeatures = detail::or_no_rows(dfeatures, f.visual_tokens(), dhidden);
      detail::check_pass(options_.checks, comm_, here(".backward"), f.origin_.digest, dhidden, ctx, [&] {
        check(f, detail::fused_rows{"dfeatures", dfeatures, f.visual_tokens()},
              detail::fused_rows{"dhidden", dhidden, f.tokens()});
        detail::refuse_aliasing({{"dfeatures", dfeatures}}, {{"dhidden", dhidden}});
      });
      auto const* const tables = f.template tables<typename Queue::memory_type>();
      detail::zero_dropped(ctx.queue, f.ways_.visual, dfeatures);
      sp::exchange(comm_, "deepstack.backward", ctx,
                   detail::gradient_along(f.ways_.visual, dhidden, dfeatures, tables ? &tables->visual : nullptr))
          .wait();
    });
  }

  /// Bytes that forward() or backward() takes from context.scratch at most, for rows of `dim` entries of T, on the queue of the context.
  template <class T, class Queue = inline_queue>
  [[nodiscard]] index_t scratch_bytes(fused_batch const& f, index_t dim, Queue const& queue = {}) const {
    using memory = typename Queue::memory_type;
    return located(here(".scratch_bytes"), [&] {
      detail::require_fused_here(f.origin_, detail::group_place::in(comm_), of_);
      view<T, 2, memory> const features(nullptr, {f.visual_tokens(), dim}), hidden(nullptr, {f.tokens(), dim});
      view<T const, 2, memory> const reads = features, dhidden = hidden;
      auto const* const tables = f.template tables<memory>();
      index_t const there = sp::exchange_scratch(comm_, queue, added(f, reads, hidden, tables));
      index_t const back = sp::exchange_scratch(
          comm_, queue, detail::gradient_along(f.ways_.visual, dhidden, features, tables ? &tables->visual : nullptr));
      return max(detail::agreement_bytes(options_.checks, comm_, queue), max(there, back));
    });
  }

  /// The short forms, with memory of the batch.
  template <class T, int R>
  void forward(fused_batch const& f, std::type_identity_t<view<T const, R>> features, view<T, R> hidden) const {
    forward<inline_queue, T, R>(f, context(f.batch().memory(), f.batch().memory()), features, hidden);
  }
  template <class T, int R>
  void backward(fused_batch const& f, std::type_identity_t<view<T const, R>> dhidden, view<T, R> dfeatures) const {
    backward<inline_queue, T, R>(f, context(f.batch().memory(), f.batch().memory()), dhidden, dfeatures);
  }

private:
  deepstack(Comm group, deepstack_options options, std::uint64_t of)
      : comm_(std::move(group)), options_(std::move(options)), of_(of) {
    detail::check_level(options_.checks, "deepstack", comm_.rank(), comm_.size());
    check_layers();
  }
  [[nodiscard]] site here(char const* call) const { return {"deepstack", call, comm_.rank(), comm_.size()}; }
  template <class A, class B>
  void check(fused_batch const& f, detail::fused_rows<A> const& features, detail::fused_rows<B> const& hidden) const {
    detail::require_fused_here(f.origin_, detail::group_place::in(comm_), of_);
    detail::check_fused_rows(hidden, features);
  }
  template <class T, int R, class M>
  static auto added(fused_batch const& f, view<T const, R, M> const& features, view<T, R, M> const& hidden,
                    detail::fused_tables<M> const* tables) {
    return routed(f.ways_.visual.there, features, hidden, head_cut{}, landing::sum_to, tables ? &tables->features : nullptr);
  }
  void check_layers() const {
    auto const& l = options_.layers;
    for (std::size_t i = 0; i < l.size(); ++i) {
      auto const first = std::size_t(at(l[i])); // of the same name
      if (l[i] < 0 || first < i)
        fail({errc::bad_state,
              "layers[" + std::to_string(i) + "] is " + std::to_string(l[i]) +
                  (first < i ? ", and so is layers[" + std::to_string(first) + "]" : ", no layer"),
              "Name a decoder layer for each vision layer, each once", "deepstack", comm_.rank(), comm_.size()});
    }
  }

  Comm comm_;
  deepstack_options options_;
  std::uint64_t of_ = 0; ///< the fusion whose batches it takes; 0: any
};
template <class Comm>
deepstack(Comm, deepstack_options = {}) -> deepstack<Comm>;
template <class Splice, class Comm>
deepstack(fusion<Splice, Comm>, deepstack_options = {}) -> deepstack<Comm>;

} // namespace sp
