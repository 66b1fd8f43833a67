// A queue of tests that does what inline_queue does and counts what it is given: work that does not go through it is missing in the counts.
// It works on memory of any kind; what it is told that the kind is, the library must not mix up with the host's.
#pragma once

#include <new>

#include <sp/core/memory.hpp>
#include <sp/core/queue.hpp>

namespace support {

/// Memory that the library must take for another than the host's.
struct apart {};

/// What a counting_queue was given.
struct counted_work {
  sp::index_t passes = 0, indices = 0;   ///< calls of for_each and of their bodies
  sp::index_t sums = 0, terms = 0;       ///< single sums, and what they added up
  sp::index_t copies = 0, waits = 0;     ///< calls of copy and of synchronize
  sp::index_t uploads = 0, uploaded = 0; ///< calls of upload, and their bytes
  friend bool operator==(counted_work const&, counted_work const&) = default;
};

/// Calls of one kind of body that counting_queues of this thread were given.
template <class Body>
inline thread_local sp::index_t indices_of = 0;

template <class M>
class counting_queue {
public:
  using memory_type = M;
  static constexpr bool finished_on_return = std::is_same_v<M, sp::host_memory>;
  struct event {};

  explicit counting_queue(counted_work& work) : work_(&work) {}

  template <std::size_t Rank, class Body>
  void for_each(std::array<sp::index_t, Rank> const& extents, Body const& body) const {
    static_assert(std::is_trivially_copyable_v<Body>);
    sp::index_t n = 1;
    for (sp::index_t e : extents) n *= e;
    ++work_->passes;
    work_->indices += n;
    indices_of<Body> += n;
    sp::inline_queue{}.for_each(extents, body);
  }
  template <class Term, class Store>
  void sums(sp::index_t outputs, sp::index_t terms, Term const& term, Store const& store) const {
    static_assert(std::is_trivially_copyable_v<Term> && std::is_trivially_copyable_v<Store>);
    work_->sums += outputs;
    work_->terms += outputs * terms;
    sp::inline_queue{}.sums(outputs, terms, term, store);
  }
  void copy(std::span<sp::piece const> to, std::span<sp::piece const> from) const {
    ++work_->copies;
    sp::copy(to, from);
  }
  void upload(std::byte* to, std::span<std::byte const> bytes) const {
    ++work_->uploads;
    work_->uploaded += sp::index_t(bytes.size());
    sp::inline_queue::upload(to, bytes);
  }
  event record() const { return {}; }
  void wait(event) const {}
  counting_queue lane() const { return *this; }
  void synchronize() const { ++work_->waits; }

private:
  counted_work* work_;
};

/// Blocks of memory M, which are the host's.
template <class M>
class plain_memory final : public sp::basic_allocator<M> {
public:
  void* allocate(std::size_t bytes) override {
    ++blocks;
    return ::operator new(bytes, std::align_val_t(this->alignment));
  }
  void deallocate(void* p, std::size_t) noexcept override {
    --blocks;
    ::operator delete(p, std::align_val_t(this->alignment));
  }
  int blocks = 0; ///< that are out
};

/// The same tensor, said to lie in memory M.
template <class M, class T, int Rank>
sp::view<T, Rank, M> in_memory(sp::view<T, Rank> const& v) {
  return {v.data, v.extents, v.strides};
}

} // namespace support
