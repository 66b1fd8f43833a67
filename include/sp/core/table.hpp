// A table: integers that the host makes for a batch and that work of a queue reads, in the memory of that queue.
// Over host memory it is the host's list itself; elsewhere one block whose address stays when another batch is written into it.
#pragma once

#include <vector>

#include <sp/core/context.hpp>

namespace sp {

/// What work of a queue of memory M reads. Empty until it is assigned; movable.
template <class T, class M>
class table {
  static_assert(std::is_trivially_copyable_v<T>, "sp: entries of a table are copied bytewise.");

public:
  /// The first time it takes a block of context.kept, with the room that the context says; from then on it writes into that block,
  /// behind all work that the queue was given. workspace_too_small if the values are more than it has room for: they stay as they were.
  template <class Queue>
  void assign(context<Queue> const& c, std::vector<T> const& values) {
    static_assert(std::is_same_v<typename Queue::memory_type, M>);
    if (!made_) {
      block_ = owned<T, 1, M>(*c.kept, {c.room.capacity(index_t(values.size()))});
      made_ = true;
    }
    if (index_t(values.size()) > capacity())
      fail({errc::workspace_too_small,
            "this batch needs a table of " + std::to_string(values.size()) + " entries, there is room for " +
                std::to_string(capacity()),
            "Prepare it anew, or leave more room when preparing the first batch: context.room"});
    c.queue.upload(reinterpret_cast<std::byte*>(block_.tensor.data), std::as_bytes(std::span(values)));
    size_ = index_t(values.size());
  }

  [[nodiscard]] bool made() const noexcept { return made_; }
  [[nodiscard]] index_t size() const noexcept { return size_; }
  [[nodiscard]] index_t capacity() const noexcept { return block_.tensor.extent(0); }
  /// Of this batch; (size()).
  [[nodiscard]] view<T const, 1, M> values() const noexcept { return {block_.tensor.data, {size_}}; }

private:
  owned<T, 1, M> block_;
  index_t size_ = 0;
  bool made_ = false;
};

/// The host reads its own list: nothing is copied, and a batch may have any number of entries.
template <class T>
class table<T, host_memory> {
public:
  template <class Queue>
  void assign(context<Queue> const&, std::vector<T> values) {
    static_assert(std::is_same_v<typename Queue::memory_type, host_memory>);
    list_ = std::move(values);
    made_ = true;
  }

  [[nodiscard]] bool made() const noexcept { return made_; }
  [[nodiscard]] index_t size() const noexcept { return index_t(list_.size()); }
  [[nodiscard]] index_t capacity() const noexcept { return index_t(list_.capacity()); }
  [[nodiscard]] view<T const, 1> values() const noexcept { return {list_.data(), {size()}}; }

private:
  std::vector<T> list_;
  bool made_ = false;
};

} // namespace sp
