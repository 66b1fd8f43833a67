// The seat in a model where its attention is called: attention on one rank until sp::auto_wrap, or use(), puts another object there.
// Calls are those of attention objects, with the batch; the type of what computes is not part of the model.
#pragma once

#include <sp/attention/ulysses.hpp>
#include <sp/attention/whole.hpp>
#include <sp/backend/reference.hpp>
#include <sp/multimodal/roles.hpp>
#include <sp/multimodal/seated.hpp>
#include <sp/multimodal/vit_attention.hpp>

namespace sp {

/// Role: what it is in the model. T: the type of its tensors. Queue: where calls run, and with it the memory of the tensors.
///
///     struct layer { sp::attention_slot<sp::text_role, float> attend{{.q_heads = 8, .kv_heads = 2}}; };
///     auto saved = layer.attend.forward(batch, {.q = q, .k = k, .v = v, .out = out});
///     layer.attend.backward(batch, std::move(saved), {.q = q, .k = k, .v = v, .out = out, .dout = dout, .dq = dq, .dk = dk, .dv = dv});
///
/// Shapes are those of forward_operands and backward_operands; with prefix tokens those of vit_attention. A slot belongs to one rank. A
/// copy is a slot of its own: it refuses the saved of the one that it was copied from.
template <class Role, class T, class Queue = inline_queue>
class attention_slot {
  static_assert(
      requires {
        Role::name;
        Role::usual_mask();
      },
      "sp::attention_slot: the role of attention is sp::vision_role, sp::text_role, or a struct with `static constexpr char "
      "const* "
      "name` and `static sp::mask usual_mask()`; a projection holds no attention.");
  static_assert(sp::queue<Queue>,
                "sp::attention_slot: the third argument is the queue that calls run on, sp::inline_queue unless "
                "tensors are elsewhere; its memory_type is that of the tensors.");

public:
  using role = Role;
  using element_type = T;
  using queue_type = Queue;
  using memory_type = typename Queue::memory_type;
  using context_type = context<Queue>;
  using saved = slot_saved<T>;
  using prepared = slot_prepared;
  using forward_type = forward_operands<T, memory_type>;
  using backward_type = backward_operands<T, memory_type>;
  static constexpr slot_kind kind = slot_kind::attention;
  static constexpr bool runs_at_once = std::is_same_v<Queue, inline_queue>; ///< calls need no context

  /// Attention on one rank through sp::reference, which is slow and right.
  attention_slot() : attention_slot(attention_seat<Role>{}) {}
  attention_slot(attention_seat<Role> seat) : seat_(std::move(seat)) {
    check_seat();
    alone_with(basic_reference<memory_type>{});
  }
  /// Attention on one rank through a kernel: sp::cpu{}, or whatever rings and Ulysses take.
  template <class Kernel>
  attention_slot(attention_seat<Role> seat, Kernel kernel) : seat_(std::move(seat)) {
    check_seat();
    alone_with(std::move(kernel));
  }

  /// What the model says of this attention.
  attention_seat<Role> const& seat() const noexcept { return seat_; }
  /// What sits in the slot.
  [[nodiscard]] seating seated() const noexcept { return in_.how(); }

  /// Puts an attention object here: one over the ranks of the model's batches, made with seat().mask and seat().scale. Where the seat has
  /// prefix tokens: a vit_attention. bad_state for one of another mask or prefix; its scale cannot be asked for, and its heads are those of
  /// the tensors. A saved of before is refused from now on.
  template <class Object>
  void use(Object object, seating how) {
    static_assert(std::is_same_v<detail::memory_of<Object>, memory_type>,
                  "sp::attention_slot: the object computes on tensors of another memory than the slot's queue.");
    index_t prefix = 0;
    if constexpr (requires { object.prefix_tokens(); }) prefix = object.prefix_tokens();
    detail::require_seat(seat_.mask, seat_.prefix, object.mask(), prefix);
    in_.put(new detail::seat_of<T, Queue, Object>(std::move(object), how));
  }
  template <class Object>
  void use(Object object) {
    int const ranks = int(detail::ranks_of(object));
    use(std::move(object), {Object::name, 1, 1, true, ranks});
  }

  // ---- calls of one step: the batch alone, on host memory ----------------------------------------------------------------------------

  /// q (tokens, q heads, dim), k (tokens, kv heads, dim), v (tokens, kv heads, value dim) -> out (tokens, q heads, value dim). What it
  /// returns lives in the batch's memory.
  [[nodiscard]] saved forward(batch const& b, forward_type const& o) const requires(runs_at_once) {
    return in().forward({&b}, in_memory_of(b, o.random), o);
  }
  void infer(batch const& b, forward_type const& o) const requires(runs_at_once) {
    in().infer({&b}, in_memory_of(b, o.random), o);
  }
  /// Gradients of sum(out * dout), overwritten unless o.accumulate. Consumes `s`.
  template <class Saved>
  void backward(batch const& b, Saved&& s, backward_type const& o) const requires(runs_at_once) {
    in().backward({&b}, in_memory_of(b, o.random), token_of<Saved>(s), o);
  }

  // ---- calls in a context: with the batch, or with what was prepared for it --------------------------------------------------------------

  [[nodiscard]] saved forward(batch const& b, context_type const& c, forward_type const& o) const {
    return in().forward({&b}, c, o);
  }
  [[nodiscard]] saved forward(prepared const& p, context_type const& c, forward_type const& o) const {
    return in().forward({nullptr, &p}, c, o);
  }
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

  /// The geometry of a batch, for all slots that hold the same kind of object, under the seat's mask or one of the step (prefix lengths,
  /// image spans). In a context: tables that work of its queue reads lie in context.kept, see attention objects.
  [[nodiscard]] prepared prepare(batch const& b) const { return in().prepare(b, b, nullptr, nullptr); }
  [[nodiscard]] prepared prepare(batch const& b, sp::mask const& m) const { return in().prepare(b, b, &m, nullptr); }
  [[nodiscard]] prepared prepare(batch const& b, context_type const& c) const { return in().prepare(b, b, nullptr, &c); }
  [[nodiscard]] prepared prepare(batch const& b, sp::mask const& m, context_type const& c) const {
    return in().prepare(b, b, &m, &c);
  }
  /// Queries of one batch, keys of another.
  [[nodiscard]] prepared prepare(batch const& q, batch const& k, sp::mask const& m, context_type const& c) const {
    return in().prepare(q, k, &m, &c);
  }
  /// Makes `p` what prepare() would return for another batch, at the same addresses.
  void refresh(prepared& p, batch const& b, context_type const& c) const { in().refresh(p, b, b, nullptr, c); }
  void refresh(prepared& p, batch const& b, sp::mask const& m, context_type const& c) const { in().refresh(p, b, b, &m, c); }

  /// Bytes a call takes from context.scratch at most, and what context.kept gives for one saved.
  [[nodiscard]] index_t scratch_bytes(batch const& b, attention_shape const& s, Queue const& queue = {}) const {
    return in().scratch_bytes({&b}, s, queue);
  }
  [[nodiscard]] index_t saved_bytes(batch const& b, attention_shape const& s) const { return in().saved_bytes({&b}, s); }

private:
  using seated_type = detail::seated<T, Queue>;

  void check_seat() const {
    head_shape const h = seat_.heads();
    if (h.q_heads < 0 || h.kv_heads < 0 || (h.q_heads > 0 && h.q_heads % h.kv_heads != 0) || (h.q_heads == 0 && h.kv_heads > 0))
      fail({errc::invalid_shape,
            "a slot of " + std::to_string(h.q_heads) + " q heads and " + std::to_string(h.kv_heads) + " kv heads",
            "Both must be positive and q heads a multiple of kv heads", "attention_slot"});
    if (seat_.prefix < 0 || (seat_.prefix > 0 && !detail::has_prefix<Role>))
      fail({errc::invalid_shape,
            "a slot of the role " + std::string(Role::name) + " with " + std::to_string(seat_.prefix) + " prefix tokens",
            "Prefix tokens are those of a vision tower: 0, 1 or more of them", "attention_slot"});
  }
  template <class Kernel>
  void alone_with(Kernel kernel) {
    attention_options options;
    options.mask = seat_.mask;
    options.scale = seat_.scale;
    if constexpr (detail::has_prefix<Role>)
      if (seat_.prefix > 0) {
        using ranks = detail::rank_alone<memory_type>;
        auto around = [this](auto inside) {
          use(vit_attention<ranks, decltype(inside)>({}, std::move(inside), {}, {seat_.prefix}), {"one rank"});
        };
        if constexpr (detail::wants_whole_documents<
                          detail::local_attention_t<Kernel>>) // Ulysses brings prefix and patches together
          return around(ulysses_attention{ranks{}, std::move(kernel), std::move(options)});
        else
          return around(detail::local_attention(std::move(kernel), std::move(options)));
      }
    use(detail::local_attention(std::move(kernel), std::move(options)), {"one rank"});
  }
  seated_type const& in() const { return in_.in("attention_slot"); }
  context_type in_memory_of(batch const& b, random_key key) const { return context_type(b.memory(), b.memory(), key); }
  template <class Saved>
  static saved& token_of(std::remove_reference_t<Saved>& s) {
    static_assert(!std::is_lvalue_reference_v<Saved>, "sp: backward consumes what forward returned; pass std::move(saved).");
    return s;
  }

  attention_seat<Role> seat_;
  detail::seat_owner<seated_type> in_;
};

} // namespace sp
