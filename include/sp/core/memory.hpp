// Where sp gets memory: an allocator interface for each memory, a pool that reuses blocks, owning buffers and bump workspaces.
// After warm-up a pool and a workspace allocate nothing; a workspace too small says how much is needed.
#pragma once

#include <bit>
#include <cstddef>
#include <new>
#include <utility>
#include <vector>

#include <sp/core/view.hpp>

namespace sp {

/// Source of memory M for what a call needs and for what is kept between calls. Implement it over a trainer's own arena: derive from
/// sp::allocator, or from sp::basic_allocator<sp::device_memory> for tensors on a device. sp hands its blocks to queues of that memory
/// and never touches them itself; a block is given back as soon as everything that uses it is ordered before the queue's later work.
template <class M>
class basic_allocator {
public:
  static constexpr std::size_t alignment = 64;
  virtual ~basic_allocator() = default;
  virtual void* allocate(std::size_t bytes) = 0; ///< aligned to `alignment`; throws when there is none
  virtual void deallocate(void* p, std::size_t bytes) noexcept = 0;
  /// Bytes that it can still give; `unknown` unless the memory is a block of fixed size. A backward call that would need more is refused
  /// before anything is sent, so that it can be made again.
  [[nodiscard]] virtual std::size_t room() const noexcept { return unknown; }
  static constexpr std::size_t unknown = std::size_t(-1);
};

/// Of memory that this process's CPU reads and writes.
using allocator = basic_allocator<host_memory>;

namespace detail {
class idle_pools; // idle_pools.hpp
}

/// Host memory that keeps what it got: a block given back serves the next request of its size class. Classes are an eighth of a
/// power of two apart, so steps of slightly different lengths share blocks. Not thread safe: one per rank.
class pool final : public allocator {
public:
  pool() = default;
  pool(pool const&) = delete;
  pool& operator=(pool const&) = delete;
  ~pool() override {
    for (block const& b : free_) ::operator delete(b.data, std::align_val_t(alignment));
  }

  void* allocate(std::size_t bytes) override {
    std::size_t size = size_class(bytes), found = free_.size();
    for (std::size_t i = 0; i < free_.size(); ++i) // the one used last: blocks that nobody needs any more grow old
      if (free_[i].bytes == size && (found == free_.size() || free_[i].used >= free_[found].used)) found = i;
    void* p = nullptr;
    if (found < free_.size()) {
      p = free_[found].data;
      free_[found] = free_.back();
      free_.pop_back();
    } else {
      free_.reserve(free_.size() + out_ + 1); // so that deallocate never has to grow the list
      p = ::operator new(size, std::align_val_t(alignment));
    }
    ++out_;
    in_use_ += round_up(bytes, alignment);
    peak_ = peak_ < in_use_ ? in_use_ : peak_;
    return p;
  }
  void deallocate(void* p, std::size_t bytes) noexcept override {
    in_use_ -= round_up(bytes, alignment);
    free_.push_back({p, size_class(bytes), owners_});
    if (--out_ == 0 && when_empty_) when_empty_(this);
  }

  /// Bytes handed out now, and the most at any time; each request counts as a multiple of `alignment`.
  [[nodiscard]] std::size_t bytes_in_use() const noexcept { return in_use_; }
  [[nodiscard]] std::size_t peak_bytes() const noexcept { return peak_; }

private:
  friend class detail::idle_pools;
  struct block {
    void* data;
    std::size_t bytes; ///< its size class
    std::size_t used;  ///< the owner that gave it back last
  };
  static std::size_t size_class(std::size_t n) {
    std::size_t step = std::bit_floor(n | 1) / 8;
    step = step < alignment ? alignment : step;
    return round_up(n, step);
  }
  std::vector<block> free_;
  std::size_t out_ = 0, in_use_ = 0, peak_ = 0;
  // of a pool that goes from one batch to the next
  std::size_t owners_ = 0;                       ///< how many it has had
  void (*when_empty_)(pool*) noexcept = nullptr; ///< called when the last block comes back after its owner has gone
  pool* next_ = nullptr;
  void const* last_thread_ = nullptr; ///< the thread that gave it back
  std::size_t given_back_ = 0;        ///< how many had come back by then, this one included
};

/// A fixed block of the caller's memory M, used as a stack: for trainers that place every byte themselves.
template <class M>
class basic_workspace final : public basic_allocator<M> {
public:
  using basic_allocator<M>::alignment;
  /// A block whose start is not aligned to `alignment` loses up to alignment - 1 bytes of what scratch_bytes() or saved_bytes() asked for.
  basic_workspace(void* memory, std::size_t bytes) : base_(static_cast<std::byte*>(memory)), bytes_(bytes) {}

  void* allocate(std::size_t bytes) override {
    std::size_t at = aligned(base_ + used_);
    if (at + bytes > bytes_)
      fail({errc::workspace_too_small,
            "at least " + std::to_string(at + bytes) + " bytes are needed, " + std::to_string(bytes_) + " were given",
            "Ask scratch_bytes() (context.scratch) or saved_bytes() (context.kept) of the object for this batch"});
    if (out_ >= few && more_.size() <= out_ - few) more_.resize(out_ - few + 1); // so that deallocate never has to
    used_ = at + bytes;
    ++out_;
    return base_ + at;
  }
  /// A block below the top comes back with the last one above it.
  void deallocate(void* p, std::size_t bytes) noexcept override {
    auto* block = static_cast<std::byte*>(p); // the top one, if no other block fits between its end and used_
    bool const top = aligned(block + bytes) == aligned(base_ + used_);
    hole const back = joined({std::size_t(block - base_), aligned(block + bytes)});
    if (top)
      used_ = back.begin;
    else
      hole_at(holes_++) = back; // above each is a block that is out, so there are no more of them
    if (--out_ == 0) used_ = 0, holes_ = 0;
  }
  [[nodiscard]] std::size_t room() const noexcept override {
    std::size_t const at = aligned(base_ + used_);
    return at < bytes_ ? bytes_ - at : 0;
  }

private:
  /// Where a block may start that does not start before `p`, counted from base_.
  std::size_t aligned(std::byte const* p) const {
    auto address = [](std::byte const* x) { return reinterpret_cast<std::uintptr_t>(x); };
    return round_up(address(p), alignment) - address(base_);
  }

  /// Room of blocks that came back while another one lay above it, up to where the next one begins.
  struct hole {
    std::size_t begin, end;
  };
  /// With the holes on either side of it, which are holes no more.
  hole joined(hole h) noexcept {
    for (std::size_t i = 0; i < holes_;) {
      hole const x = hole_at(i);
      if (x.end != h.begin && x.begin != h.end) {
        ++i;
        continue;
      }
      h = x.end == h.begin ? hole{x.begin, h.end} : hole{h.begin, x.end};
      hole_at(i) = hole_at(--holes_);
    }
    return h;
  }
  hole& hole_at(std::size_t i) noexcept { return i < few ? few_[i] : more_[i - few]; }

  std::byte* base_;
  std::size_t bytes_, used_ = 0, out_ = 0;
  static constexpr std::size_t few = 8; ///< holes that take no memory of the heap
  hole few_[few]{};
  std::vector<hole> more_; ///< as many as blocks have been out at once
  std::size_t holes_ = 0;
};
/// A fixed block of host memory.
using workspace = basic_workspace<host_memory>;

namespace detail {
inline thread_local index_t counted_overhead = 0; ///< bytes a block takes beyond its own: canaries at check level 3
}

/// Hands out nothing and counts: run an object's allocations through it to learn how many bytes they take.
template <class M>
class basic_byte_counter final : public basic_allocator<M> {
public:
  void* allocate(std::size_t bytes) override {
    bytes_ += round_up(bytes, this->alignment) + std::size_t(detail::counted_overhead);
    return nullptr;
  }
  void deallocate(void*, std::size_t) noexcept override {}
  [[nodiscard]] index_t bytes() const noexcept { return index_t(bytes_); }

private:
  std::size_t bytes_ = 0;
};
/// Counts host memory.
using byte_counter = basic_byte_counter<host_memory>;

/// An owning, move-only block of an allocator.
template <class M>
class basic_buffer {
public:
  basic_buffer() = default;
  basic_buffer(basic_allocator<M>& from, index_t bytes) : from_(&from), bytes_(std::size_t(bytes)) {
    if (bytes > 0) data_ = from.allocate(bytes_);
  }
  basic_buffer(basic_buffer&& o) noexcept
      : from_(o.from_), data_(std::exchange(o.data_, nullptr)), bytes_(std::exchange(o.bytes_, 0)) {}
  basic_buffer& operator=(basic_buffer&& o) noexcept {
    std::swap(from_, o.from_);
    std::swap(data_, o.data_);
    std::swap(bytes_, o.bytes_);
    return *this;
  }
  ~basic_buffer() {
    if (data_) from_->deallocate(data_, bytes_);
  }
  [[nodiscard]] index_t bytes() const noexcept { return index_t(bytes_); }

  /// The block as a dense tensor.
  template <class T, std::size_t Rank>
  [[nodiscard]] view<T, int(Rank), M> as(std::array<index_t, Rank> extents) const {
    return {static_cast<T*>(data_), extents};
  }

private:
  basic_allocator<M>* from_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};
/// A block of host memory.
using buffer = basic_buffer<host_memory>;

/// A dense tensor in a buffer of its own.
template <class T, int Rank, class M = host_memory>
struct owned {
  basic_buffer<M> memory;
  view<T, Rank, M> tensor;
  owned() = default;
  owned(basic_allocator<M>& from, std::array<index_t, std::size_t(Rank)> extents)
      : memory(from, checked_mul(view<T, Rank, M>(nullptr, extents).elements(), index_t(sizeof(T)))),
        tensor(memory.template as<T>(extents)) {}
};

} // namespace sp
