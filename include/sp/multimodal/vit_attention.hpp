// Attention of a vision tower: patches are sharded, prefix tokens (cls, registers) are on every rank, and each of them is one key.
// Around any attention object: its documents are {prefix tokens, patches}, and rank 0 owns the prefix tokens of all of them.
#pragma once

#include <sp/attention/call/attention_object.hpp>
#include <sp/attention/kernel_results.hpp>
#include <sp/layout/route_exchange.hpp>
#include <sp/multimodal/prefix_tokens.hpp>

namespace sp {

template <class Kernel>
class whole_attention;

namespace detail {
/// Whether an object needs the rows of a document in one range: prefix rows stand apart from their patches.
template <class Inner>
inline constexpr bool wants_whole_documents = false;
template <class Kernel>
inline constexpr bool wants_whole_documents<whole_attention<Kernel>> = true;
} // namespace detail

/// Comm: a communicator or mesh group of all ranks of the sequence, in the order of the batch's parts. Inner: the attention object that
/// runs over the same ranks; its mask is about documents {prefix tokens, patches}: sp::full() for a vision tower, or a window; causal, of
/// which prefix tokens would see no patch, is unsupported_mask. Contract: sp::shares or sp::same.
///
/// Tensors are (documents x prefix + patches.tokens(), heads, dim): the prefix rows of all documents, document by document, with
/// the same values on every rank, and behind them this rank's patches. In out these rows have the same bits on every rank.
/// Rank 0 computes them from its own q, k and v; what other ranks hold there is not read, but by check level 3, which looks for NaN.
/// Batches are of patches alone; a document without patches has prefix tokens all the same.
/// Gradients of sinks are shares, whatever the contract: those of prefix queries are in rank 0's.
template <class Comm, class Inner, class Contract = shares>
class vit_attention : public detail::attention_object<vit_attention<Comm, Inner, Contract>> {
  static_assert(communicator<Comm>,
                "sp::vit_attention: the first argument must be a communicator: copyable, with memory_type, rank(), size() and "
                "exchange(traffic); sp::threads, sp::solo or a mesh group is one.");
  static_assert(
      requires { typename Inner::prepared; },
      "sp::vit_attention: the second argument must be an attention object over the same ranks: sp::ring_attention or "
      "sp::ulysses_attention (on one rank, too: sp::ulysses_attention{sp::solo{}, kernel, {.mask = sp::full()}}).");
  static_assert(std::is_same_v<Contract, shares> || std::is_same_v<Contract, same>,
                "sp::vit_attention: say how gradients of prefix tokens come and leave: sp::shares{} (their sum over ranks "
                "is the gradient) or sp::same{} (every rank has all of it).");
  static_assert(std::is_same_v<detail::memory_of<Comm>, detail::memory_of<Inner>>,
                "sp::vit_attention: the communicator moves tensors of one memory and the attention inside computes on those of "
                "another; their memory_type must be the same.");

public:
  using memory_type = typename Comm::memory_type;

  struct prepared {
    index_t prefix_rows = 0, patch_rows = 0;
    route from_owner{}, to_owner{};             ///< of prefix rows: from rank 0 to the others, and back
    landing_table<memory_type> sums_of_owner{}; ///< where a context was given
    typename Inner::prepared inner{};
    detail::checked_geometry checked{};
  };

  template <class T>
  struct saved {
    using element_type = T;
    typename Inner::template saved<T> inner;
    detail::saved_token token;
  };

  vit_attention(Comm comm, Inner inner, Contract = {}, vit_options options = {})
      : comm_(std::move(comm)), inner_(std::move(inner)), options_(options) {
    refuse_options();
    this->identify_object();
  }

  Comm const& group() const noexcept { return comm_; }
  Inner const& inner() const noexcept { return inner_; }
  vit_options const& options() const noexcept { return options_; }
  /// The heads this rank computes, in global numbers.
  [[nodiscard]] heads local_heads(index_t q_heads, index_t kv_heads) const {
    return local_heads_of(all_heads(q_heads, kv_heads));
  }
  /// Rows of prefix tokens that stand in front of every rank's patches, and of all rows of this rank's tensors.
  [[nodiscard]] index_t prefix_rows(batch const& patches) const {
    return checked_mul(index_t(patches.docs().size()), options_.prefix);
  }
  [[nodiscard]] index_t rows(batch const& patches) const { return prefix_rows(patches) + patches.tokens(); }

  // ---- what attention_object calls -----------------------------------------------------------------------------------------------

  static constexpr char const* name = "vit_attention";
  static constexpr bool draws_random_numbers = detail::draws_random_numbers<Inner>;
  sp::mask const& mask() const { return inner_.mask(); }
  int checks() const { return inner_.checks(); }
  heads local_heads_of(heads whole) const { return inner_.local_heads_of(whole); }
  index_t q_rows(prepared const& p) const noexcept { return p.prefix_rows + p.patch_rows; }
  index_t k_rows(prepared const& p) const noexcept { return p.prefix_rows + p.patch_rows; }
  index_t prefix_tokens() const noexcept { return options_.prefix; }
  void check_call(heads whole, bool sinks) const { inner_.check_call(whole, sinks); }

  template <class Context>
  void prepare_batches(prepared& out, batch const& patches, batch const& keys, sp::mask const& mask,
                       Context const& context) const {
    refuse_batches(patches, keys);
    if (options_.prefix > 0 && mask == causal(mask.at)) // the default of attention_options
      fail({errc::unsupported_mask,
            "the mask is causal: " + std::to_string(options_.prefix) + " prefix tokens would see none of the patches behind them",
            "Give the attention inside {.mask = sp::full()}, or a window"});
    out.prefix_rows = prefix_rows(patches);
    out.patch_rows = patches.tokens();
    make_routes(out, context);
    auto inside = [&](documents const& source, layout const& l) {
      auto list = rebase(slices(mask, source, source), source, l.docs(), source, l.docs());
      detail::prepare_layouts(inner_, out.inner, l, l, patches.part(), std::move(list), mask, context);
    };
    if (options_.prefix == 0) return inside(patches.source(), patches.layout());
    inside(detail::with_prefix(patches.source(), options_.prefix), detail::with_prefix(patches.layout(), options_.prefix));
  }
  /// Inside of another object the rows would be other ones.
  template <class... Context>
  void prepare_layouts(prepared&, layout const&, layout const&, int, std::vector<slice> const&, sp::mask const&,
                       Context const&...) const {
    fail({errc::unsupported, "a vit_attention was put into another attention object",
          "Put the other object into the vit_attention: it is the outermost one"});
  }
  void identify(digest& d) const {
    inner_.identify(d);
    detail::group_place::in(comm_).add_to(d);
    d.add(options_.prefix);
  }

  template <class T, class Queue>
  saved<T> run_forward(prepared const& p, context<Queue> const& ctx, detail::forward_io<T, memory_type> const& io) const {
    saved<T> s{inner_.template run_forward<T>(p.inner, ctx,
                                              detail::forward_io<T, memory_type>{io.on, mine(p, io.q), mine(p, io.k),
                                                                                 mine(p, io.v), mine(p, io.out), io.sinks}),
               detail::saved_token(true)};
    if (sends(p)) sp::exchange(comm_, "vit_attention.forward", ctx, to_everybody(p, io.out)).wait();
    return s;
  }

  template <class T, class Queue, class G>
  void run_backward(prepared const& p, context<Queue> const& ctx, saved<T> const& s,
                    detail::backward_io<T, G, memory_type> const& io) const {
    if (!sends(p) || std::is_same_v<Contract, same>) {
      backward_inside(p, ctx, s, io, mine(p, io.dout));
      if (sends(p))
        sp::exchange(comm_, "vit_attention.backward", ctx, to_everybody(p, io.dq), to_everybody(p, io.dk), to_everybody(p, io.dv))
            .wait();
      return;
    }
    // the owner's dout is the caller's: its sum with that of other ranks takes a tensor of its own
    owned<T, 3, memory_type> const summed(*ctx.scratch, of_owner(p, io.dout).extents);
    copy_rows(ctx.queue, summed.tensor, of_owner(p, io.dout));
    sp::exchange(comm_, "vit_attention.backward", ctx, sum_to_owner(p, io.dout, summed.tensor)).wait();
    backward_inside(p, ctx, s, io, owns() ? view<T const, 3, memory_type>(summed.tensor) : mine(p, io.dout));
    if (owns() || io.extras.accumulate) return;
    sp::fill(ctx.queue, io.dq.rows(0, p.prefix_rows), T{});
    sp::fill(ctx.queue, io.dk.rows(0, p.prefix_rows), G{});
    sp::fill(ctx.queue, io.dv.rows(0, p.prefix_rows), G{});
  }

  // for check levels 2 and 3
  template <class F>
  void each_group(F&& f) const {
    inner_.each_group(f);
  }
  int sequence_rank() const { return inner_.sequence_rank(); }
  void describe(fingerprint& f, prepared const& p, index_t dim, random_key key) const {
    inner_.describe(f, p.inner, dim, key);
    f.number("prefix tokens", options_.prefix);
    f.word("gradients of prefix tokens", int(std::is_same_v<Contract, same>), detail::contract_words);
  }
  template <class T, class F>
  void each_lse(saved<T> const& s, F&& f) const {
    inner_.each_lse(s.inner, f);
  }

  template <class T>
  index_t saved_for(prepared const& p, heads on, attention_shape const& s) const {
    return inner_.template saved_for<T>(p.inner, on, s);
  }
  /// What runs inside, or the exchange before or after it; and the summed dout.
  template <class T, class... Queue>
  index_t scratch_for(prepared const& p, heads on, attention_shape const& s, Queue const&... queue) const {
    index_t const inside = detail::scratch_of<T>(inner_, p.inner, on, s, queue...);
    if (!sends(p)) return inside;
    auto shaped = [&](index_t head_count, index_t dim) { return view<T, 3, memory_type>(nullptr, {q_rows(p), head_count, dim}); };
    auto const out = shaped(on.q_count, s.value_dim);
    index_t const forward = exchange_bytes(to_everybody(p, out));
    if constexpr (std::is_same_v<Contract, same>) {
      auto const dq = shaped(on.q_count, s.dim), dk = shaped(on.kv_count, s.dim), dv = shaped(on.kv_count, s.value_dim);
      return max(inside, max(forward, exchange_bytes(to_everybody(p, dq), to_everybody(p, dk), to_everybody(p, dv))));
    } else {
      basic_byte_counter<memory_type> c;
      owned<T, 3, memory_type> const summed(c, of_owner(p, out).extents);
      return max(forward, c.bytes() + max(inside, exchange_bytes(sum_to_owner(p, out, of_owner(p, out)))));
    }
  }

private:
  bool owns() const { return comm_.rank() == detail::prefix_owner; }
  /// Whether prefix rows move at all.
  bool sends(prepared const& p) const { return comm_.size() > 1 && p.prefix_rows > 0; }

  // ---- rows of a caller's tensor: (prefix rows + patches, heads, dim) --------------------------------------------------------------
  /// Those that the attention inside has: all of them on the owner, patches elsewhere.
  template <class E>
  view<E, 3, memory_type> mine(prepared const& p, view<E, 3, memory_type> const& v) const {
    return owns() ? v : v.rows(p.prefix_rows, p.patch_rows);
  }
  /// All of them on the owner, none elsewhere.
  template <class E>
  view<E, 3, memory_type> of_owner(prepared const& p, view<E, 3, memory_type> const& v) const {
    return v.rows(0, owns() ? q_rows(p) : 0);
  }
  /// Prefix rows where `here` says so, none elsewhere.
  template <class E>
  static view<E, 3, memory_type> prefix(prepared const& p, view<E, 3, memory_type> const& v, bool here) {
    return v.rows(0, here ? p.prefix_rows : 0);
  }
  /// Prefix rows of the owner take the place of those of the others.
  template <class E>
  auto to_everybody(prepared const& p, view<E, 3, memory_type> const& v) const {
    return routed(p.from_owner, prefix(p, v, owns()), prefix(p, v, !owns()));
  }
  /// Prefix rows of the others are added to those of the owner's `to`, in the order of ranks.
  template <class E, class T>
  auto sum_to_owner(prepared const& p, view<E, 3, memory_type> const& from, view<T, 3, memory_type> const& to) const {
    return routed(p.to_owner, prefix(p, from, !owns()), prefix(p, to, owns()), head_cut{}, landing::sum_to, &p.sums_of_owner);
  }
  template <class Queue, class T, class E>
  static void copy_rows(Queue const& queue, view<T, 3, memory_type> const& to, view<E, 3, memory_type> const& from) {
    if (to.empty()) return;
    piece const there = as_piece(to), here = as_piece(from);
    queue.copy({&there, 1}, {&here, 1});
  }

  template <class T, class Queue, class G, class E>
  void backward_inside(prepared const& p, context<Queue> const& ctx, saved<T> const& s,
                       detail::backward_io<T, G, memory_type> const& io, view<E, 3, memory_type> const& dout) const {
    inner_.template run_backward<T>(p.inner, ctx, s.inner,
                                    detail::backward_io<T, G, memory_type>{io.on, mine(p, io.q), mine(p, io.k), mine(p, io.v),
                                                                           mine(p, io.out), dout, mine(p, io.dq), mine(p, io.dk),
                                                                           mine(p, io.dv), io.extras});
  }

  void refuse_options() const {
    int const ranks = int(detail::ranks_of(inner_));
    if (options_.prefix < 0)
      fail({errc::invalid_shape, std::to_string(options_.prefix) + " prefix tokens", "Give 0, 1 or more", name, comm_.rank(),
            comm_.size()});
    if (comm_.size() != ranks || comm_.rank() != inner_.sequence_rank())
      fail({errc::invalid_shape,
            "this is " + detail::group_place::in(comm_).text() + " of the group, and rank " +
                std::to_string(inner_.sequence_rank()) + " of " + std::to_string(ranks) + " of the attention inside",
            "Give the group of all ranks that the attention inside runs on, in the order of its mesh", name, comm_.rank(),
            comm_.size()});
    if (detail::wants_whole_documents<Inner> && options_.prefix > 0)
      fail({errc::unsupported, "a kernel without lse needs one range of rows per document, and prefix rows stand apart",
            "Put sp::ulysses_attention around it, over one rank too: it brings the rows of a document together", name,
            comm_.rank(), comm_.size()});
  }
  void refuse_batches(batch const& patches, batch const& keys) const {
    if (patches.serial() != keys.serial())
      fail({errc::unsupported,
            "queries are batch number " + std::to_string(patches.serial()) + ", keys number " + std::to_string(keys.serial()),
            "A vision tower attends to its own patches: prepare one batch"});
    if (patches.part() != comm_.rank() || patches.parts() != comm_.size())
      fail({errc::invalid_shape,
            "this is part " + std::to_string(patches.part()) + " of a batch for " + std::to_string(patches.parts()) +
                " ranks, and " + detail::group_place::in(comm_).text() + " of the group",
            "Make the batch of patches over the ranks of the same group"});
  }

  template <class Context>
  void make_routes(prepared& out, [[maybe_unused]] Context const& context) const {
    index_t const owned_rows = owns() ? out.prefix_rows : 0, others = owns() ? 0 : out.prefix_rows;
    out.from_owner = route::of_rows(
        comm_.rank(), comm_.size(), owned_rows, others,
        [&](int p, auto&& add) {
          if (p != detail::prefix_owner) add(0, 1, owned_rows);
        },
        [&](int p, auto&& add) {
          if (p == detail::prefix_owner) add(0, 1, others);
        });
    out.to_owner = out.from_owner.transposed();
    if constexpr (!std::is_same_v<Context, detail::no_context>)
      if (std::is_same_v<Contract, shares>) out.sums_of_owner.assign(context, out.to_owner);
  }

  template <class... Operands>
  index_t exchange_bytes(Operands const&... o) const {
    return sp::exchange_scratch(comm_, detail::some_queue<memory_type>{}, o...);
  }

  Comm comm_;
  Inner inner_;
  vit_options options_;
};

template <class Comm, class Inner, class Contract = shares>
vit_attention(Comm, Inner, Contract = {}, vit_options = {}) -> vit_attention<Comm, Inner, Contract>;

} // namespace sp
