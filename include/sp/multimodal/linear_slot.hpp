// The seats in a model of its linear attention and of the convolution before it. One rank until auto_wrap or use() gives them more.
// The kernel and options are part of the model, the communicator is not: calls are those of linear_attention and causal_conv1d.
#pragma once

#include <sp/collective/solo.hpp>
#include <sp/linear/causal_conv1d.hpp>
#include <sp/linear/linear_attention.hpp>
#include <sp/multimodal/roles.hpp>
#include <sp/multimodal/seated_calls.hpp>

namespace sp {

namespace detail {

/// What sits in a linear or convolution slot, without its communicator.
template <class Signature>
class seated_layer : public seated_calls<seated_layer<Signature>, Signature> {
public:
  using typename seated_calls<seated_layer, Signature>::context_type;
  /// context: null to prepare without one.
  virtual slot_prepared prepare(batch const&, context_type const* context) const = 0;

protected:
  using seated_calls<seated_layer, Signature>::seated_calls;
};
template <class Signature, class Object>
class layer_in_seat final : public object_in_seat<seated_layer<Signature>, Object> {
  using base = object_in_seat<seated_layer<Signature>, Object>;
  using typename base::prepared;

public:
  layer_in_seat(Object object, seating s) : base(std::move(object), s) {}
  slot_prepared prepare(batch const& b, typename base::context_type const* c) const override {
    return slot_prepared(new prepared(c ? this->object_.prepare(b, *c) : this->object_.prepare(b)));
  }
  layer_in_seat* clone() const override { return new layer_in_seat(this->object_, this->how); }
};

/// The calls of both slots, on what the slot Self puts into the seat.
template <class Self, class Signature>
class layer_slot {
public:
  using role = text_role;
  using element_type = typename Signature::element_type;
  using queue_type = typename Signature::queue_type;
  using memory_type = typename queue_type::memory_type;
  using context_type = typename Signature::context_type;
  using saved = slot_saved<element_type>;
  using prepared = slot_prepared;
  using forward_type = typename Signature::forward_type;
  using backward_type = typename Signature::backward_type;
  static constexpr bool runs_at_once = std::is_same_v<queue_type, inline_queue>; ///< calls need no context

  /// What sits in the slot.
  [[nodiscard]] seating seated() const noexcept { return in_.how(); }

  // ---- calls of one step: the batch alone, on host memory ----------------------------------------------------------------------------

  /// What it returns lives in the batch's memory.
  [[nodiscard]] saved forward(batch const& b, forward_type const& o) const requires(runs_at_once) {
    return in().forward({&b}, sp::context(b.memory(), b.memory()), o);
  }
  void infer(batch const& b, forward_type const& o) const requires(runs_at_once) {
    in().infer({&b}, sp::context(b.memory(), b.memory()), o);
  }
  /// Gradients. Consumes `s`.
  template <class Saved>
  void backward(batch const& b, Saved&& s, backward_type const& o) const requires(runs_at_once) {
    in().backward({&b}, sp::context(b.memory(), b.memory()), token_of<Saved>(s), o);
  }

  // ---- calls in a context: with the batch, or with what was prepared for it ----------------------------------------------------------

  [[nodiscard]] saved forward(batch const& b, context_type const& c, forward_type const& o) const {
    return in().forward({&b}, c, o);
  }
  [[nodiscard]] saved forward(prepared const& p, context_type const& c, forward_type const& o) const {
    return in().forward({nullptr, &p}, c, o);
  }
  /// Keeps nothing: all its memory is of the context's scratch.
  void infer(batch const& b, context_type const& c, forward_type const& o) const { in().infer({&b}, c, o); }
  void infer(prepared const& p, context_type const& c, forward_type const& o) const { in().infer({nullptr, &p}, c, o); }
  template <class Saved>
  void backward(batch const& b, context_type const& c, Saved&& s, backward_type const& o) const {
    in().backward({&b}, c, token_of<Saved>(s), o);
  }
  template <class Saved>
  void backward(prepared const& p, context_type const& c, Saved&& s, backward_type const& o) const {
    in().backward({nullptr, &p}, c, token_of<Saved>(s), o);
  }

  /// The geometry of a batch, for all slots of the same kind and options. In a context: tables that work of its queue reads lie in
  /// context.kept.
  [[nodiscard]] prepared prepare(batch const& b) const { return in().prepare(b, nullptr); }
  [[nodiscard]] prepared prepare(batch const& b, context_type const& c) const { return in().prepare(b, &c); }

  /// Bytes a call takes from context.scratch at most, and what context.kept gives for one saved.
  [[nodiscard]] index_t scratch_bytes(batch const& b, typename Signature::shape_type const& s, queue_type const& q = {}) const {
    return in().scratch_bytes({&b}, s, q);
  }
  [[nodiscard]] index_t scratch_bytes(prepared const& p, typename Signature::shape_type const& s,
                                      queue_type const& q = {}) const {
    return in().scratch_bytes({nullptr, &p}, s, q);
  }
  [[nodiscard]] index_t saved_bytes(batch const& b, typename Signature::shape_type const& s) const {
    return in().saved_bytes({&b}, s);
  }
  [[nodiscard]] index_t saved_bytes(prepared const& p, typename Signature::shape_type const& s) const {
    return in().saved_bytes({nullptr, &p}, s);
  }

private:
  friend Self;
  layer_slot() = default;
  template <class Object>
  void put(Object object, seating how) {
    in_.put(new layer_in_seat<Signature, Object>(std::move(object), how));
  }
  seated_layer<Signature> const& in() const { return in_.in(Self::name); }
  template <class Saved>
  static saved& token_of(std::remove_reference_t<Saved>& s) {
    static_assert(!std::is_lvalue_reference_v<Saved>, "sp: backward consumes what forward returned; pass std::move(saved).");
    return s;
  }

  seat_owner<seated_layer<Signature>> in_;
};

template <class Kernel, class T, class Queue>
using linear_signature = slot_signature<T, Queue, linear_operands<T, gates_in<Kernel>, typename Queue::memory_type>,
                                        linear_gradients<T, gates_in<Kernel>, typename Queue::memory_type>, linear_shape>;
template <class T, class Queue>
using conv1d_signature = slot_signature<T, Queue, conv1d_operands<T, typename Queue::memory_type>,
                                        conv1d_gradients<T, typename Queue::memory_type>, index_t>;

} // namespace detail

/// The seat of a linear_attention: over one rank, until auto_wrap or use() gives it the ranks of the sequence. Kernel: a linear_kernel, part
/// of the model with the options. T: the type of its tensors. Queue: where calls run, and with it the memory of the tensors.
///
///     struct layer { sp::linear_slot<sp::gated_delta, float> attend{sp::gated_delta{{.normalise = true}}}; };
///     auto saved = layer.attend.forward(batch, {.q = q, .k = k, .v = v, .gates = {g, beta}, .out = out});
///     layer.attend.backward(batch, std::move(saved), {.q = q, ..., .dout = dout, .dq = dq, ..., .dgates = {dg, dbeta}});
///
/// Shapes are those of linear_operands and linear_gradients. A slot belongs to one rank. A copy is a slot of its own: it refuses the saved
/// of the one that it was copied from.
template <class Kernel, class T, class Queue = inline_queue>
class linear_slot : public detail::layer_slot<linear_slot<Kernel, T, Queue>, detail::linear_signature<Kernel, T, Queue>> {
  using base = detail::layer_slot<linear_slot, detail::linear_signature<Kernel, T, Queue>>;
  static_assert(sp::queue<Queue>, "sp::linear_slot: the third argument is the queue that calls run on, sp::inline_queue unless "
                                  "tensors are elsewhere; its memory_type is that of the tensors.");
  static_assert(
      linear_kernel<Kernel, T>,
      "sp::linear_slot: the first argument must be a kernel of linear attention for this element type: sp::gated_delta, "
      "sp::gated_linear, sp::scalar_decay, sp::plain_linear, or a model of sp::linear_kernel.");

public:
  using typename base::memory_type;
  static constexpr slot_kind kind = slot_kind::linear;

  linear_slot() : linear_slot(Kernel{}) {}
  explicit linear_slot(Kernel kernel, linear_attention_options options = {}) : kernel_(std::move(kernel)), options_(options) {
    use_ranks(detail::rank_alone<memory_type>{}, {"one rank"});
  }

  Kernel const& kernel() const noexcept { return kernel_; }
  linear_attention_options const& options() const noexcept { return options_; }

  /// A linear_attention with this kernel and these options over `ranks`: those of the model's batches. A saved of before is refused from now
  /// on, and so is what was prepared for other ranks. checks: its check level, unless that of options() is higher.
  template <class Comm>
  void use(Comm ranks, int checks = 0) {
    int const size = ranks.size();
    use_ranks(std::move(ranks), {"linear_attention", 1, 1, true, size}, checks);
  }

private:
  friend base;
  static constexpr char const* name = "linear_slot";
  template <class Comm>
  void use_ranks(Comm ranks, seating how, int checks = 0) {
    static_assert(std::is_same_v<typename Comm::memory_type, memory_type>,
                  "sp::linear_slot: these ranks move tensors of another memory than the slot's queue.");
    linear_attention_options options = options_;
    if (options.checks < checks) options.checks = checks;
    this->put(linear_attention{std::move(ranks), kernel_, options}, how);
  }

  Kernel kernel_;
  linear_attention_options options_;
};

/// The seat of a causal_conv1d: over one rank, until auto_wrap or use() gives it the ranks of the sequence. T and Queue: as of linear_slot.
///
///     struct layer { sp::conv1d_slot<float> mix{{.width = 4, .activation = sp::activation::silu}}; };
///
/// Shapes are those of conv1d_operands and conv1d_gradients; bytes are asked for by channels.
template <class T, class Queue = inline_queue>
class conv1d_slot : public detail::layer_slot<conv1d_slot<T, Queue>, detail::conv1d_signature<T, Queue>> {
  using base = detail::layer_slot<conv1d_slot, detail::conv1d_signature<T, Queue>>;
  static_assert(sp::queue<Queue>, "sp::conv1d_slot: the second argument is the queue that calls run on, sp::inline_queue unless "
                                  "tensors are elsewhere; its memory_type is that of the tensors.");

public:
  using typename base::memory_type;
  static constexpr slot_kind kind = slot_kind::conv1d;

  explicit conv1d_slot(conv1d_options options = {}) : options_(options) {
    use_ranks(detail::rank_alone<memory_type>{}, {"one rank"});
  }

  conv1d_options const& options() const noexcept { return options_; }

  /// A causal_conv1d with these options over `ranks`: those of the model's batches. A saved of before is refused from now on, and so is what
  /// was prepared for other ranks. checks: its check level, unless that of options() is higher.
  template <class Comm>
  void use(Comm ranks, int checks = 0) {
    int const size = ranks.size();
    use_ranks(std::move(ranks), {"causal_conv1d", 1, 1, true, size}, checks);
  }

private:
  friend base;
  static constexpr char const* name = "conv1d_slot";
  template <class Comm>
  void use_ranks(Comm ranks, seating how, int checks = 0) {
    static_assert(std::is_same_v<typename Comm::memory_type, memory_type>,
                  "sp::conv1d_slot: these ranks move tensors of another memory than the slot's queue.");
    conv1d_options options = options_;
    if (options.checks < checks) options.checks = checks;
    this->put(causal_conv1d{std::move(ranks), options}, how);
  }

  conv1d_options options_;
};

} // namespace sp
