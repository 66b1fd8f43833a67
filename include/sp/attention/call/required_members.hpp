// What an attention object must have, asked member by member: one sentence for each that it lacks, with what to add.
// Says no more and no less than the concepts inner_attention and inner_attention_of.
#pragma once

#include <sp/attention/concepts.hpp>

namespace sp::detail {

/// The one sentence for a context that is not for this object.
template <class A, class Queue>
constexpr bool require_one_memory() {
  static_assert(
      std::is_same_v<memory_of<A>, typename Queue::memory_type>,
      "sp: the queue of this context works on another memory than the attention object; its memory_type must be that of "
      "the object's communicator and kernel.");
  return true;
}

/// One sentence for each member that an object lacks.
template <class A>
constexpr bool require_inner_attention() {
  static_assert(gives_prepared<A>, "sp: an attention object has a movable type `prepared` with a default; add it, with a member "
                                   "`sp::detail::checked_geometry checked`.");
  static_assert(gives_name<A>, "sp: an attention object has a name for errors; add `static constexpr char const* name`.");
  static_assert(gives_group<A>,
                "sp: an attention object says which ranks it runs on; add `group()`, which returns its communicator.");
  static_assert(gives_mask<A>, "sp: an attention object says what it was made with; add `sp::mask const& mask() const`.");
  static_assert(gives_checks<A>, "sp: an attention object has a check level; add `int checks() const`, the option's value.");
  static_assert(gives_local_heads<A>, "sp: an attention object says which heads a rank computes; add `sp::heads "
                                      "local_heads_of(sp::heads) const`, which returns its argument if it is all of them.");
  static_assert(gives_rows<A>,
                "sp: an attention object knows the rows of its tensors; add `q_rows(prepared)` and `k_rows(prepared)`.");
  static_assert(gives_check_call<A>,
                "sp: an attention object may refuse a call before it begins; add `check_call(sp::heads, bool) "
                "const`, which may do nothing.");
  static_assert(gives_prepare_layouts<A>, "sp: an attention object prepares the geometry of a batch; add `void prepare_layouts("
                                          "prepared&, layout, layout, int part, std::vector<sp::slice>, sp::mask) const`.");
  static_assert(gives_identify<A>,
                "sp: an attention object says what its geometry depends on; add `identify(sp::digest&) const`, "
                "which adds its schedule and kernel, and may do nothing.");
  static_assert(gives_each_group<A>,
                "sp: an attention object names the communicators it sends over; add `each_group(f) const`, which "
                "calls f with each.");
  static_assert(gives_sequence_rank<A>,
                "sp: an attention object knows its place in the sequence; add `int sequence_rank() const`.");
  static_assert(gives_describe<A>, "sp: an attention object says what its ranks must have in common; add `describe(fingerprint&, "
                                   "prepared, sp::index_t dim, sp::random_key) const`.");
  return true;
}
template <class A, class T>
constexpr bool require_inner_attention_of() {
  static_assert(gives_saved<A, T>,
                "sp: an attention object has a movable type `saved<T>`; add it, with `using element_type = T` and a "
                "member `sp::detail::saved_token token`.");
  static_assert(gives_run_forward<A, T>, "sp: an attention object computes; add `saved<T> run_forward<T>(prepared, context, "
                                         "forward_io<T>) const`.");
  static_assert(gives_run_backward<A, T>, "sp: an attention object differentiates; add `run_backward<T>(prepared, context, "
                                          "saved<T> const&, backward_io<T, G>) const` for G = T and G = accumulate_t<T>.");
  static_assert(gives_bytes<A, T>, "sp: an attention object knows the memory of its calls; add `scratch_for<T>` and "
                                   "`saved_for<T>(prepared, sp::heads, attention_shape) const`, which return sp::index_t.");
  static_assert(gives_each_lse<A, T>,
                "sp: an attention object shows its lse to checks; add `each_lse(saved<T>, f) const`, which may "
                "do nothing.");
  return true;
}

} // namespace sp::detail
