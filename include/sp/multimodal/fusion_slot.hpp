// The seats in a model where text and visual features are joined: of its fusion, and of its deepstack. One rank until they are wrapped.
// The splice is part of the model, the communicator is not: calls are those of fusion and deepstack.
#pragma once

#include <sp/collective/solo.hpp>
#include <sp/multimodal/deepstack.hpp>
#include <sp/multimodal/seat.hpp>

namespace sp {

namespace detail {

/// Any sharding, by reference: for calls that know no types. As one that says how to pad, unless it is asked.
class sharding_ref {
public:
  scope over = scope::stream;

  template <class How>
  static sharding_ref to(How const& how) {
    sharding_ref r;
    r.over = how.over;
    r.of_ = &how;
    r.runs_ = [](void const* s, index_t n, index_t part, index_t parts) -> std::vector<run> {
      return static_cast<How const*>(s)->runs(n, part, parts);
    };
    r.multiple_ = [](void const* s, index_t parts) -> index_t {
      if constexpr (requires(How const& h) { h.multiple(parts); }) return static_cast<How const*>(s)->multiple(parts);
      fail({errc::uneven_partition, "this sharding does not say how to pad", "Give it index_t multiple(index_t parts) const"});
    };
    r.check_document_ = [](void const* s, index_t n) {
      if constexpr (requires(How const& h) { h.check_document(n); }) static_cast<How const*>(s)->check_document(n);
    };
    return r;
  }
  [[nodiscard]] std::vector<run> runs(index_t n, index_t part, index_t parts) const { return runs_(of_, n, part, parts); }
  [[nodiscard]] index_t multiple(index_t parts) const { return multiple_(of_, parts); }
  void check_document(index_t n) const { check_document_(of_, n); }

private:
  sharding_ref() = default;
  void const* of_ = nullptr;
  std::vector<run> (*runs_)(void const*, index_t, index_t, index_t) = nullptr;
  index_t (*multiple_)(void const*, index_t) = nullptr;
  void (*check_document_)(void const*, index_t) = nullptr;
};
static_assert(sharding<sharding_ref>);

/// What a fused batch is made of.
struct fusion_step {
  std::span<splice_sample const> samples;
  batch const& text;
  batch const& visual;
  std::span<index_t const> order;
  sharding_ref how;
};

/// What sits in a fusion slot, without its communicator.
template <class T, class Queue>
class seated_fusion : public seat_base<seated_fusion<T, Queue>> {
public:
  using memory = typename Queue::memory_type;
  virtual fused_batch prepare(fusion_step const&, context<Queue> const* c) const = 0;
  virtual void forward(fused_batch const&, context<Queue> const&, fusion_forward<T, memory> const&) const = 0;
  virtual void backward(fused_batch const&, context<Queue> const&, fusion_backward<T, memory> const&) const = 0;
  virtual index_t scratch_bytes(fused_batch const&, index_t dim, Queue const&) const = 0;

protected:
  using seat_base<seated_fusion>::seat_base;
};
template <class T, class Queue, class Splice, class Comm>
struct fusion_in_seat final : seated_fusion<T, Queue> {
  using typename seated_fusion<T, Queue>::memory;
  fusion<Splice, Comm> object;
  fusion_in_seat(fusion<Splice, Comm> f, seating s) : seated_fusion<T, Queue>(s), object(std::move(f)) {}
  fused_batch prepare(fusion_step const& s, context<Queue> const* c) const override {
    return c ? object.prepare(*c, s.samples, s.text, s.visual, s.order, s.how)
             : object.prepare(s.samples, s.text, s.visual, s.order, s.how);
  }
  void forward(fused_batch const& f, context<Queue> const& c, fusion_forward<T, memory> const& o) const override {
    object.forward(f, c, o);
  }
  void backward(fused_batch const& f, context<Queue> const& c, fusion_backward<T, memory> const& o) const override {
    object.backward(f, c, o);
  }
  index_t scratch_bytes(fused_batch const& f, index_t dim, Queue const& q) const override {
    return object.template scratch_bytes<T>(f, dim, q);
  }
  fusion_in_seat* clone() const override { return new fusion_in_seat(object, this->how); }
};

/// The same of a deepstack slot.
template <class T, class Queue>
class seated_deepstack : public seat_base<seated_deepstack<T, Queue>> {
public:
  using memory = typename Queue::memory_type;
  using reads = view<T const, 2, memory>;
  using writes = view<T, 2, memory>;
  virtual void forward(fused_batch const&, context<Queue> const&, reads features, writes hidden) const = 0;
  virtual void backward(fused_batch const&, context<Queue> const&, reads dhidden, writes dfeatures) const = 0;
  virtual index_t scratch_bytes(fused_batch const&, index_t dim, Queue const&) const = 0;

protected:
  using seat_base<seated_deepstack>::seat_base;
};
template <class T, class Queue, class Comm>
struct deepstack_in_seat final : seated_deepstack<T, Queue> {
  using typename seated_deepstack<T, Queue>::reads, typename seated_deepstack<T, Queue>::writes;
  deepstack<Comm> object;
  deepstack_in_seat(deepstack<Comm> d, seating s) : seated_deepstack<T, Queue>(s), object(std::move(d)) {}
  void forward(fused_batch const& f, context<Queue> const& c, reads features, writes hidden) const override {
    object.template forward<Queue, T, 2>(f, c, features, hidden);
  }
  void backward(fused_batch const& f, context<Queue> const& c, reads dhidden, writes dfeatures) const override {
    object.template backward<Queue, T, 2>(f, c, dhidden, dfeatures);
  }
  index_t scratch_bytes(fused_batch const& f, index_t dim, Queue const& q) const override {
    return object.template scratch_bytes<T>(f, dim, q);
  }
  deepstack_in_seat* clone() const override { return new deepstack_in_seat(object, this->how); }
};

} // namespace detail

/// The seat of a fusion: sp::fusion over one rank, until auto_wrap or use() gives it the ranks of the sequence. T: the type of embeddings
/// and hidden states.
///
///     struct model { sp::fusion_slot<sp::splice::placeholder, float> merge{{.token = 32000}}; };
///     auto fused = m.merge.prepare(samples, text, visual, images.merged_rows(), sp::zigzag{});
///     m.merge.forward(fused, {.text = embedded, .visual = features, .hidden = hidden});
template <class Splice, class T, class Queue = inline_queue>
class fusion_slot {
  static_assert(detail::require_splice<Splice>());

public:
  using role = projection_role;
  using element_type = T;
  using queue_type = Queue;
  using memory_type = typename Queue::memory_type;
  using context_type = context<Queue>;
  using forward_type = fusion_forward<T, memory_type>;
  using backward_type = fusion_backward<T, memory_type>;
  static constexpr slot_kind kind = slot_kind::fusion;
  static constexpr bool runs_at_once = std::is_same_v<Queue, inline_queue>;

  fusion_slot() : fusion_slot(Splice{}) {}
  fusion_slot(Splice splice, fusion_options options = {}) : splice_(std::move(splice)), options_(options) {
    use_ranks(detail::rank_alone<memory_type>{}, {"one rank"});
  }

  Splice const& splice() const noexcept { return splice_; }
  fusion_options const& options() const noexcept { return options_; }
  [[nodiscard]] seating seated() const noexcept { return in_.how(); }

  /// A fusion with this splice and these options over `ranks`: those of the model's batches. A fused batch of before is refused.
  /// checks: its check level, unless that of options() is higher.
  template <class Comm>
  void use(Comm ranks, int checks = 0) {
    int const size = ranks.size();
    use_ranks(std::move(ranks), {"fusion", 1, 1, true, size}, checks);
  }

  /// The decoder's batch of one step, see fusion::prepare.
  template <sharding How>
  [[nodiscard]] fused_batch prepare(std::span<splice_sample const> samples, batch const& text, batch const& visual,
                                    std::span<index_t const> order, How const& how) const {
    return in().prepare({samples, text, visual, order, detail::sharding_ref::to(how)}, nullptr);
  }
  template <sharding How>
  [[nodiscard]] fused_batch prepare(std::span<splice_sample const> samples, batch const& text, batch const& visual,
                                    How const& how) const {
    return prepare(samples, text, visual, std::span<index_t const>(), how);
  }
  template <sharding How>
  [[nodiscard]] fused_batch prepare(context_type const& c, std::span<splice_sample const> samples, batch const& text,
                                    batch const& visual, std::span<index_t const> order, How const& how) const {
    return in().prepare({samples, text, visual, order, detail::sharding_ref::to(how)}, &c);
  }

  /// Rows of dim: shapes are those of fusion_forward and fusion_backward. Without a context: on host memory, scratch of the fused batch.
  void forward(fused_batch const& f, context_type const& c, forward_type const& o) const { in().forward(f, c, o); }
  void backward(fused_batch const& f, context_type const& c, backward_type const& o) const { in().backward(f, c, o); }
  void forward(fused_batch const& f, forward_type const& o) const requires(runs_at_once) {
    in().forward(f, sp::context(f.batch().memory(), f.batch().memory()), o);
  }
  void backward(fused_batch const& f, backward_type const& o) const requires(runs_at_once) {
    in().backward(f, sp::context(f.batch().memory(), f.batch().memory()), o);
  }

  /// Bytes that forward() or backward() takes from context.scratch at most, for rows of `dim` entries.
  [[nodiscard]] index_t scratch_bytes(fused_batch const& f, index_t dim, Queue const& queue = {}) const {
    return in().scratch_bytes(f, dim, queue);
  }

private:
  using seated_type = detail::seated_fusion<T, Queue>;
  template <class Comm>
  void use_ranks(Comm ranks, seating how, int checks = 0) {
    static_assert(std::is_same_v<typename Comm::memory_type, memory_type>,
                  "sp::fusion_slot: these ranks move tensors of another memory than the slot's queue.");
    fusion_options options = options_;
    if (options.checks < checks) options.checks = checks;
    in_.put(new detail::fusion_in_seat<T, Queue, Splice, Comm>(fusion<Splice, Comm>(std::move(ranks), splice_, options), how));
  }
  seated_type const& in() const { return in_.in("fusion_slot"); }

  Splice splice_;
  fusion_options options_;
  detail::seat_owner<seated_type> in_;
};

/// The seat of a deepstack, for fused batches of the model's fusion slot.
template <class T, class Queue = inline_queue>
class deepstack_slot {
public:
  using role = projection_role;
  using element_type = T;
  using queue_type = Queue;
  using memory_type = typename Queue::memory_type;
  using context_type = context<Queue>;
  using reads = view<T const, 2, memory_type>;
  using writes = view<T, 2, memory_type>;
  static constexpr slot_kind kind = slot_kind::deepstack;
  static constexpr bool runs_at_once = std::is_same_v<Queue, inline_queue>;

  deepstack_slot(deepstack_options options = {}) : options_(std::move(options)) {
    use_ranks(detail::rank_alone<memory_type>{}, {"one rank"});
  }

  deepstack_options const& options() const noexcept { return options_; }
  /// Which features are added behind a decoder layer: an index into options().layers, -1 for none.
  [[nodiscard]] int at(index_t decoder_layer) const noexcept {
    for (std::size_t i = 0; i < options_.layers.size(); ++i)
      if (options_.layers[i] == decoder_layer) return int(i);
    return -1;
  }
  [[nodiscard]] seating seated() const noexcept { return in_.how(); }
  /// A deepstack over `ranks`: those of the model's batches. checks: its check level, unless that of options() is higher.
  template <class Comm>
  void use(Comm ranks, int checks = 0) {
    int const size = ranks.size();
    use_ranks(std::move(ranks), {"deepstack", 1, 1, true, size}, checks);
  }

  /// hidden (fused.tokens(), dim) += features (visual.tokens(), dim) at visual rows.
  void forward(fused_batch const& f, context_type const& c, reads features, writes hidden) const {
    in().forward(f, c, features, hidden);
  }
  /// dfeatures (visual.tokens(), dim) = dhidden (fused.tokens(), dim) at visual rows.
  void backward(fused_batch const& f, context_type const& c, reads dhidden, writes dfeatures) const {
    in().backward(f, c, dhidden, dfeatures);
  }
  void forward(fused_batch const& f, reads features, writes hidden) const requires(runs_at_once) {
    in().forward(f, sp::context(f.batch().memory(), f.batch().memory()), features, hidden);
  }
  void backward(fused_batch const& f, reads dhidden, writes dfeatures) const requires(runs_at_once) {
    in().backward(f, sp::context(f.batch().memory(), f.batch().memory()), dhidden, dfeatures);
  }

  /// Bytes that forward() or backward() takes from context.scratch at most, for rows of `dim` entries.
  [[nodiscard]] index_t scratch_bytes(fused_batch const& f, index_t dim, Queue const& queue = {}) const {
    return in().scratch_bytes(f, dim, queue);
  }

private:
  using seated_type = detail::seated_deepstack<T, Queue>;
  template <class Comm>
  void use_ranks(Comm ranks, seating how, int checks = 0) {
    static_assert(std::is_same_v<typename Comm::memory_type, memory_type>,
                  "sp::deepstack_slot: these ranks move tensors of another memory than the slot's queue.");
    deepstack_options options = options_;
    if (options.checks < checks) options.checks = checks;
    in_.put(new detail::deepstack_in_seat<T, Queue, Comm>(deepstack<Comm>(std::move(ranks), std::move(options)), how));
  }
  seated_type const& in() const { return in_.in("deepstack_slot"); }

  deepstack_options options_;
  detail::seat_owner<seated_type> in_;
};

} // namespace sp
