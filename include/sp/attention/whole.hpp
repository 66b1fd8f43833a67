// Local attention by a kernel that sees whole documents and returns no lse, and the choice of local attention for a kernel.
// Each document is one call in stream order; masks that would need several calls for a query are refused in a sentence.
#pragma once

#include <sp/attention/ring.hpp>
#include <sp/backend/block_calls.hpp>
#include <sp/backend/blockwise.hpp>

namespace sp {

/// One rank's attention through a whole_kernel. It is what Ulysses runs inside when the kernel has no lse.
template <class Kernel>
class whole_attention : public detail::attention_object<whole_attention<Kernel>> {
public:
  using memory_type = typename Kernel::memory_type;

  struct prepared {
    std::vector<block> documents;
    index_t q_rows = 0, k_rows = 0;
    detail::checked_geometry checked{};
  };

  /// What the kernel returned, one entry per document and range of heads; nothing if it returns void.
  template <class T>
  struct saved {
    using element_type = T;
    using returned = typename decltype(detail::returned_by(std::declval<Kernel const&>(),
                                                           std::declval<whole_call<T, memory_type> const&>()))::type;
    using entry = std::conditional_t<std::is_void_v<returned>, nothing, returned>;
    std::vector<entry> entries;
    detail::saved_token token;
  };

  explicit whole_attention(Kernel kernel, attention_options options = {})
      : kernel_(std::move(kernel)), options_(std::move(options)), kernel_identity_(detail::kernel_identity(kernel_, this->id_)) {
    detail::check_level(options_.checks, name, 0, 1);
    this->identify_object();
  }

  solo const& group() const noexcept { return solo_; }
  static constexpr char const* name = "whole_attention";
  static constexpr bool draws_random_numbers = detail::draws_random_numbers<Kernel>;
  sp::mask const& mask() const noexcept { return options_.mask; }
  int checks() const noexcept { return options_.checks; }
  heads local_heads_of(heads whole) const { return whole; }
  index_t q_rows(prepared const& p) const noexcept { return p.q_rows; }
  index_t k_rows(prepared const& p) const noexcept { return p.k_rows; }
  void check_call(heads whole, bool sinks) const {
    if (sinks)
      fail({errc::unsupported, "sinks need the lse, which this kernel does not return", "Use a kernel that returns its lse"});
    if constexpr (requires { kernel_.check(whole); }) kernel_.check(whole);
  }
  void identify(digest& d) const { d.add(kernel_identity_); }

  // for check levels 2 and 3
  template <class F>
  void each_group(F&&) const {}
  int sequence_rank() const { return 0; }
  void describe(fingerprint& f, prepared const&, index_t dim, random_key key) const {
    detail::describe_options(f, options_, kernel_, dim, key);
  }
  template <class T, class F>
  void each_lse(saved<T> const&, F&&) const {}

  void prepare_layouts(prepared& out, layout const& q, layout const& k, int part, std::vector<slice> const& slices,
                       [[maybe_unused]] sp::mask const& mask) const {
    if (q.parts() != 1)
      fail({errc::unsupported, "a kernel without lse was given a part of the keys (" + std::to_string(q.parts()) + " ring ranks)",
            "Use it under Ulysses over all ranks (ring = 1), or return the lse"});
    if constexpr (requires { requires Kernel::needs_alignment; }) detail::refuse_unaligned(mask, q.docs(), k.docs(), "ALiBi");
    auto list = coalesce(blocks(place(q.runs(part)), place(k.runs(part)), slices));
    detail::sort(list, [](block const& a, block const& b) { return a.q < b.q; });
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (i && list[i].q < list[i - 1].q + list[i - 1].rows)
        fail({errc::unsupported_mask,
              "queries from row " + std::to_string(list[i].q) + " on would need several calls of a kernel without lse",
              "Use a mask with one slice per document, or a kernel that returns its lse"});
      if (!detail::accepts(kernel_, list[i]))
        fail({errc::unsupported_mask,
              "the kernel does not accept document " + std::to_string(list[i].document) + " under this mask",
              "Use a mask it knows, or another kernel"});
    }
    out.documents = std::move(list);
    out.q_rows = q.tokens(part);
    out.k_rows = k.tokens(part);
  }

  template <class T, class Queue>
  saved<T> run_forward(prepared const& p, context<Queue> const& ctx, detail::forward_io<T, memory_type> const& io) const {
    saved<T> s{{}, detail::saved_token(true)};
    sp::fill(ctx.queue, io.out, T{});
    using call = whole_call<T, memory_type>;
    detail::for_each_call<call>(p.documents, params(ctx, io.on, io.q.extent(2)),
                                [&](call& c, block const& b, gqa_range const& g) {
                                  c.q = detail::query_rows(io.q, b, g);
                                  c.k = detail::key_rows(io.k, b, g);
                                  c.v = detail::key_rows(io.v, b, g);
                                  c.out = detail::query_rows(io.out, b, g);
                                  if constexpr (std::is_same_v<typename saved<T>::entry, nothing>)
                                    detail::kernel_forward(ctx.queue, kernel_, c);
                                  else
                                    s.entries.push_back(detail::kernel_forward(ctx.queue, kernel_, c));
                                });
    return s;
  }

  template <class T, class Queue, class G>
  void run_backward(prepared const& p, context<Queue> const& ctx, saved<T> const& s,
                    detail::backward_io<T, G, memory_type> const& io) const {
    using grad = whole_grad<T, memory_type>;
    static_assert(
        detail::takes_backward<Kernel, grad> || detail::takes_backward<Kernel, grad, typename saved<T>::entry>,
        "sp: this kernel has no backward(whole_grad) (or backward(whole_grad, what forward returned)); add it, or call infer "
        "only.");
    Queue const& queue = ctx.queue;
    detail::accumulator<T, 3, memory_type> dq(*ctx.scratch, io.dq);
    detail::accumulator<G, 3, memory_type> dk(*ctx.scratch, io.dk), dv(*ctx.scratch, io.dv);
    document_gradients<T> one(*ctx.scratch, p, io.on, io.q.extent(2), io.v.extent(2)); // before anything is added to a gradient
    bool const add = io.extras.accumulate;
    auto sum_q = dq.begin(queue, add), sum_k = dk.begin(queue, add), sum_v = dv.begin(queue, add);
    std::size_t at = 0;
    detail::for_each_call<grad>(
        p.documents, params(ctx, io.on, io.q.extent(2)), [&](grad& c, block const& b, gqa_range const& g) {
          c.q = detail::query_rows(io.q, b, g);
          c.k = detail::key_rows(io.k, b, g);
          c.v = detail::key_rows(io.v, b, g);
          c.out = detail::query_rows(io.out, b, g);
          c.dout = detail::query_rows(io.dout, b, g);
          c.dq = one.q.memory.template as<T>(c.q.extents);
          c.dk = one.k.memory.template as<T>(c.k.extents), c.dv = one.v.memory.template as<T>(c.v.extents);
          if constexpr (std::is_same_v<typename saved<T>::entry, nothing>)
            detail::kernel_backward(queue, kernel_, c);
          else
            detail::kernel_backward(queue, kernel_, c, s.entries[at++]);
          detail::add(queue, detail::query_rows(sum_q, b, g), c.dq);
          detail::add(queue, detail::key_rows(sum_k, b, g), c.dk); // kv heads of two calls, keys of several documents
          detail::add(queue, detail::key_rows(sum_v, b, g), c.dv);
        });
    dq.finish(queue);
    dk.finish(queue);
    dv.finish(queue);
  }

  template <class T>
  index_t saved_for(prepared const&, heads, attention_shape const&) const {
    return 0;
  }
  template <class T>
  index_t scratch_for(prepared const& p, heads on, attention_shape const& s) const {
    basic_byte_counter<memory_type> c;
    view<T, 3, memory_type> q(nullptr, {p.q_rows, on.q_count, s.dim}), k(nullptr, {p.k_rows, on.kv_count, s.dim}),
        v(nullptr, {p.k_rows, on.kv_count, s.value_dim});
    detail::accumulator<T, 3, memory_type> dq(c, q), dk(c, k), dv(c, v);
    document_gradients<T> one(c, p, on, s.dim, s.value_dim);
    return c.bytes();
  }

private:
  /// Memory for the gradients that a kernel writes for one document: for the longest of them.
  template <class T>
  struct document_gradients {
    owned<T, 3, memory_type> q, k, v; // (rows, q heads, dim), (keys, kv heads, dim), (keys, kv heads, value dim)
    document_gradients(basic_allocator<memory_type>& a, prepared const& p, heads on, index_t dim, index_t value_dim) {
      index_t rows = 0, keys = 0;
      for (block const& b : p.documents) rows = max(rows, b.rows), keys = max(keys, b.keys);
      q = owned<T, 3, memory_type>(a, {rows, on.q_count, dim});
      k = owned<T, 3, memory_type>(a, {keys, on.kv_count, dim});
      v = owned<T, 3, memory_type>(a, {keys, on.kv_count, value_dim});
    }
  };

  template <class Queue>
  call_params params(context<Queue> const& ctx, heads on, index_t dim) const {
    return {on, detail::scale_of(options_, dim), ctx.random};
  }

  Kernel kernel_;
  attention_options options_;
  std::uint64_t kernel_identity_;
  solo solo_;
};

namespace detail {

template <class K>
concept some_block_kernel = requires {
  typename K::memory_type;
}
&&(block_kernel<K, float> || block_kernel<K, bf16> || block_kernel<K, fp16> || block_kernel<K, double>);
template <class K>
concept some_whole_kernel = requires {
  typename K::memory_type;
}
&&(whole_kernel<K, float> || whole_kernel<K, bf16> || whole_kernel<K, fp16> || whole_kernel<K, double>);

/// The attention a kernel gives on one rank: itself if it is an attention object, a ring of one, or whole documents.
template <class K>
auto local_attention(K kernel, attention_options options = {}) {
  if constexpr (requires { typename K::prepared; })
    return kernel;
  else if constexpr (requires { typename K::plan; })
    return ring_attention<rank_alone<typename K::memory_type>, K>({}, std::move(kernel), std::move(options));
  else if constexpr (some_block_kernel<K>)
    return local_attention(blockwise{std::move(kernel)}, std::move(options));
  else if constexpr (some_whole_kernel<K>)
    return whole_attention<K>(std::move(kernel), std::move(options));
  else
    return kernel; // ulysses_attention says what is missing
}
template <class K>
using local_attention_t = decltype(local_attention(std::declval<K>()));

} // namespace detail
} // namespace sp
