// What an Ulysses call holds by heads: tensors in chunks, and what the attention inside saves for each of them.
// The very structures of a call are built on an allocator that only counts, to say beforehand how many bytes it takes.
#pragma once

#include <new>
#include <utility>

#include <sp/attention/call/options.hpp>
#include <sp/attention/ulysses/chunks.hpp>
#include <sp/core/brief_lock.hpp>
#include <sp/core/memory.hpp>

namespace sp::detail {

/// Rows of the group's ranks, and the group's rows in stream order: the way to heads, and the way back to tokens.
struct ulysses_rows {
  route to_heads, to_tokens;
  ulysses_rows() = default;
  explicit ulysses_rows(route r) : to_heads(std::move(r)), to_tokens(to_heads.transposed()) {}
  /// Of the parts first, first + stride, ... of a layout, seen from one of them; `whole` are the positions of all in stream order.
  static ulysses_rows of_group(layout const& members, int first, int stride, group_place here, std::span<run const> whole) {
    mapping const all = identity_map(unbounded);
    return ulysses_rows(route::to_everybody(members, first, stride, here.size, here.rank, whole, {&all, 1}));
  }
  index_t mine() const noexcept { return to_heads.from_rows(); }
  index_t group() const noexcept { return to_heads.to_rows(); }
};

/// What a tensor by heads has room for.
enum class room_for { nothing, all, two_chunks };

/// A tensor by heads, (group's tokens, my heads, dim): all of them side by side, or room for two chunks at a time.
template <class T, class M>
class by_heads {
public:
  using element_type = T;
  by_heads() = default;
  by_heads(basic_allocator<M>& from, room_for wanted, ulysses_heads const& h, head_cut::kind kind, index_t rows, index_t dim)
      : kind_(kind), rows_(rows), turns_(wanted == room_for::two_chunks ? min(h.chunks(), 2) : 0) {
    if (wanted == room_for::nothing) return;
    index_t const width = turns_ > 0 ? h.my_chunks.widest(kind) : h.count(kind);
    room_ = owned<T, 3, M>(from, {max(turns_, 1) * rows, width, dim});
  }
  /// Chunk i: (group's tokens, heads of the chunk, dim). With room for two, it takes the place of chunk i - 2.
  [[nodiscard]] view<T, 3, M> chunk(ulysses_heads const& h, index_t i) const {
    head_cut::range const part = h.chunk(i).range(kind_);
    view<T, 3, M> const& v = room_.tensor;
    if (turns_ == 0) return v.narrow(1, part.first, part.count);
    index_t const at = i % turns_ * rows_ * v.extent(1) * v.extent(2);
    return {v.empty() ? v.data : v.data + at, {rows_, part.count, v.extent(2)}};
  }
  /// All heads, where there is room for them.
  [[nodiscard]] view<T, 3, M> const& all() const noexcept { return room_.tensor; }

private:
  owned<T, 3, M> room_;
  head_cut::kind kind_ = head_cut::kind::q;
  index_t rows_ = 0, turns_ = 0; ///< turns: 0 for all heads
};

/// A pool of the process, for host memory that lives as long as what `kept` gives where that is not the host's: a step like the one before
/// allocates nothing. Any thread may give a block back.
class pool_of_process final : public allocator {
public:
  static pool_of_process& instance() {
    static pool_of_process& all = *new pool_of_process; // never destroyed: what is saved may die after main()
    return all;
  }
  void* allocate(std::size_t bytes) override {
    brief_lock const held(locked_);
    return blocks_.allocate(bytes);
  }
  void deallocate(void* p, std::size_t bytes) noexcept override {
    brief_lock const held(locked_);
    blocks_.deallocate(p, bytes);
  }

private:
  pool blocks_;
  bool locked_ = false;
};
template <class M>
allocator& kept_on_host([[maybe_unused]] basic_allocator<M>& kept) {
  if constexpr (std::is_same_v<M, host_memory>)
    return kept;
  else
    return pool_of_process::instance();
}

/// What the attention inside saves in each chunk. The first is a member, so that a call in one chunk allocates nothing for it.
template <class S>
class saved_chunks {
public:
  saved_chunks() = default;
  template <class M>
  saved_chunks(basic_allocator<M>& kept, index_t chunks) : more_(kept_on_host(kept), (chunks - 1) * index_t(sizeof(S))) {
    static_assert(alignof(S) <= allocator::alignment);
  }
  saved_chunks(saved_chunks&& o) noexcept
      : first_(std::move(o.first_)), more_(std::move(o.more_)), count_(std::exchange(o.count_, 0)) {}
  saved_chunks& operator=(saved_chunks&& o) noexcept {
    std::swap(first_, o.first_);
    std::swap(more_, o.more_);
    std::swap(count_, o.count_);
    return *this;
  }
  ~saved_chunks() {
    while (count_ > 1) rest()[--count_ - 1].~S();
  }
  void push(S s) {
    if (count_++ == 0)
      first_ = std::move(s);
    else
      ::new (static_cast<void*>(rest() + count_ - 2)) S(std::move(s));
  }
  [[nodiscard]] S const& at(index_t i) const { return i == 0 ? first_ : rest()[i - 1]; }
  [[nodiscard]] index_t count() const noexcept { return count_; }

private:
  [[nodiscard]] S* rest() const { return more_.template as<S>(std::array<index_t, 1>{count_}).data; }

  S first_{};
  buffer more_;
  index_t count_ = 0;
};

/// q, k and v by heads.
template <class T, class M>
struct inputs_by_heads {
  by_heads<T, M> q, k, v;
  inputs_by_heads() = default;
  inputs_by_heads(basic_allocator<M>& a, room_for wanted, ulysses_heads const& h, ulysses_rows const& queries,
                  ulysses_rows const& keys, attention_shape const& s)
      : q(a, wanted, h, head_cut::kind::q, queries.group(), s.dim), k(a, wanted, h, head_cut::kind::kv, keys.group(), s.dim),
        v(a, wanted, h, head_cut::kind::kv, keys.group(), s.value_dim) {}
};

/// Everything that a backward pass holds by heads. Share: element type of dk and dv, as they are exchanged.
template <class T, class Share, class M>
struct backward_by_heads {
  bool resend; ///< q, k and v were not kept
  bool shared; ///< dk and dv go home together, with the last chunk: shares of one kv head may be in different chunks of two ranks
  by_heads<T, M> dout;
  inputs_by_heads<T, M> in;
  by_heads<T, M> dq;
  by_heads<Share, M> dk, dv;
  backward_by_heads(basic_allocator<M>& a, bool resend_inputs, bool shared_kv, ulysses_heads const& h,
                    ulysses_rows const& queries, ulysses_rows const& keys, attention_shape const& s)
      : resend(resend_inputs), shared(shared_kv),
        dout(a, room_for::two_chunks, h, head_cut::kind::q, queries.group(), s.value_dim),
        in(a, resend ? room_for::two_chunks : room_for::nothing, h, queries, keys, s),
        dq(a, room_for::two_chunks, h, head_cut::kind::q, queries.group(), s.dim),
        dk(a, shared ? room_for::all : room_for::two_chunks, h, head_cut::kind::kv, keys.group(), s.dim),
        dv(a, shared ? room_for::all : room_for::two_chunks, h, head_cut::kind::kv, keys.group(), s.value_dim) {}
};

} // namespace sp::detail
