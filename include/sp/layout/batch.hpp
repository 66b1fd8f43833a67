// A batch: what a trainer holds in one step: documents, who owns which tokens, and which part is mine.
// Moving data in and out (split, gather) and everything that follows from positions (labels, weights, cu_seqlens) is in tokens.hpp.
#pragma once

#include <sp/core/idle_pools.hpp>
#include <sp/core/lifetime.hpp>
#include <sp/core/serial.hpp>
#include <sp/core/shared.hpp>
#include <sp/layout/layout.hpp>

namespace sp {

/// What a batch does where documents do not divide evenly over the ranks.
enum class shapes {
  ragged, ///< ranks own unequal numbers of tokens; nothing is padded
  padded, ///< documents get room until every rank owns the same number of rows; rows in the room are slack
  equal,  ///< uneven_partition unless the cut is even as it is
};

/// How a batch is cut, beyond its sharding. One value for all ranks.
struct batch_options {
  shapes local = shapes::ragged;
  /// digest_of() the whole stream's tokens; compared between ranks at check levels 2 and 3, 0: not given.
  std::uint64_t token_digest = 0;
};

namespace detail {

/// Owns one object of any type.
class box {
public:
  box() = default;
  template <class T>
  explicit box(T* p) : object_(p), destroy_([](void* x) { delete static_cast<T*>(x); }) {}
  box(box&& o) noexcept : object_(std::exchange(o.object_, nullptr)), destroy_(o.destroy_) {}
  box& operator=(box&& o) noexcept {
    std::swap(object_, o.object_);
    std::swap(destroy_, o.destroy_);
    return *this;
  }
  ~box() {
    if (object_) destroy_(object_);
  }
  template <class T>
  T& as() const {
    return *static_cast<T*>(object_);
  }

private:
  void* object_ = nullptr;
  void (*destroy_)(void*) = nullptr;
};
} // namespace detail

/// Movable, belongs to one rank. Positions are those of `docs()`; they equal the caller's unless the batch is padded.
class batch {
public:
  /// `ranks` is anything with rank() and size(): the communicator of the sequence group, or a place in it.
  template <sharding S, class Ranks>
  batch(documents docs, S const& how, Ranks const& ranks, batch_options options = {})
      : batch(std::move(docs), how, int(ranks.rank()), int(ranks.size()), options) {}

  template <sharding S>
  batch(documents docs, S const& how, int part, int parts, batch_options options = {})
      : source_(std::move(docs)), part_(part), token_digest_(options.token_digest) {
    require_part(part, parts);
    located({"batch", "", part, parts}, [&] {
      if (options.local == shapes::padded)
        layout_ = sp::layout(with_room(source_, how, parts), how, parts);
      else
        layout_ = sp::layout(source_, how, parts);
      if (options.local != shapes::ragged) require_equal(options.local);
    });
  }

  /// Cut as `owners` says, which is over the same documents as `source`: their begins and rooms may differ, where it has room for
  /// padding. bad_documents for any others.
  batch(documents source, sp::layout owners, int part, batch_options options = {})
      : source_(std::move(source)), layout_(std::move(owners)), part_(part), token_digest_(options.token_digest) {
    int const parts = layout_.parts();
    require_part(part, parts);
    located({"batch", "", part, parts}, [&] {
      require_same_documents();
      if (options.local != shapes::ragged) require_equal(options.local);
    });
  }

  [[nodiscard]] int part() const noexcept { return part_; }
  [[nodiscard]] int parts() const noexcept { return layout_.parts(); }
  /// Rows of this rank's tensors, slack rows of a padded batch included.
  [[nodiscard]] index_t tokens() const noexcept { return layout_.tokens(part_); }
  [[nodiscard]] std::span<run const> runs() const noexcept { return layout_.runs(part_); }
  [[nodiscard]] sp::layout const& layout() const noexcept { return layout_; }
  [[nodiscard]] documents const& docs() const noexcept { return layout_.docs(); }
  /// The documents as the caller gave them; global tensors (split, gather) use these positions.
  [[nodiscard]] documents const& source() const noexcept { return source_; }

  /// batch_options::token_digest
  std::uint64_t token_digest() const { return token_digest_; }

  /// Tells this batch from every other of the process, whatever their documents; it moves with the batch.
  [[nodiscard]] std::uint64_t serial() const noexcept { return serial_; }

  /// Memory for calls that bring no context of their own, taken over from a batch that has ended if there is one. What was
  /// allocated here stays valid when the batch ends, and is given back as before.
  [[nodiscard]] pool& memory() const {
    auto& s = store_.as<storage>();
    if (!s.memory) s.memory = detail::idle_pools::take();
    return *s.memory;
  }

  /// What an object prepared for this batch: found again by its type and `fits`, made by `make` the first time. The batch keeps
  /// the last `most_cached` of them, and all that are `needed_by` an object that lives: where ranks prepare together they find or
  /// miss it together, whatever else one of them keeps here. The owner of the result keeps it however many follow, also beyond
  /// the batch.
  template <class Prepared, class Fits, class Make>
  [[nodiscard]] detail::shared<Prepared> cached(Fits fits, Make make, detail::lifetime const& needed_by = {}) const {
    using kept = detail::shared<Prepared>;
    auto& cache = store_.as<storage>().cache;
    for (entry const& e : cache)
      if (e.tag == &tag<Prepared>)
        if (auto const& p = e.value.template as<kept>(); fits(*p)) return p;
    kept made(make());
    for (std::size_t i = 0; i < cache.size() && cache.size() >= most_cached;)
      if (cache[i].needed_by.lasts())
        ++i;
      else
        cache.erase(cache.begin() + std::ptrdiff_t(i));
    cache.push_back({&tag<Prepared>, detail::box(new kept(made)), detail::lifetime_watch(needed_by)});
    return made;
  }
  static constexpr std::size_t most_cached = 256; ///< more than layers of a model whose kernels cannot be told to be equal

private:
  template <class>
  static constexpr char tag = 0;
  struct entry {
    void const* tag;
    detail::box value; ///< a shared<Prepared>
    detail::lifetime_watch needed_by;
  };
  struct storage { // on the heap, so that what it hands out stays where it is when the batch moves
    pool* memory = nullptr;
    std::vector<entry> cache;
    storage() = default;
    storage(storage const&) = delete;
    storage& operator=(storage const&) = delete;
    ~storage() {
      if (memory) detail::idle_pools::give_back(memory);
    }
  };

  template <class S>
  static documents with_room(documents const& docs, S const& how, int parts) {
    if constexpr (requires { how.multiple(index_t(parts)); }) {
      index_t m = how.multiple(parts);
      if (how.over == scope::document || docs.size() == 0) return docs.padded(m);
      std::vector<document> list; // over the stream only the end needs room
      index_t n = 0;
      for (document const& d : docs) list.push_back({n, d.count, d.count, d.id}), n += d.count;
      list.back().room += round_up(n, m) - n;
      return {list, round_up(n, m)};
    } else {
      fail({errc::uneven_partition, "this sharding does not say how to pad", "Give it index_t multiple(index_t parts) const"});
    }
  }

  static void require_part(int part, int parts) {
    if (part < 0 || part >= parts)
      fail({errc::invalid_shape, "part " + std::to_string(part) + " of " + std::to_string(parts), "Give 0 <= part < parts",
            "batch", part, parts});
  }
  void require_same_documents() const {
    documents const& owned = layout_.docs();
    auto refuse = [](std::string problem) {
      fail({errc::bad_documents, std::move(problem), "Make the layout over the documents of the batch, padded ones at most"});
    };
    if (owned.size() != source_.size())
      refuse("a layout of " + std::to_string(owned.size()) + " documents for a batch of " + std::to_string(source_.size()));
    for (std::size_t d = 0; d < owned.size(); ++d)
      if (owned[d].count != source_[d].count || owned[d].id != source_[d].id)
        refuse("document " + std::to_string(d) + " of the layout has " + std::to_string(owned[d].count) + " tokens and id " +
               std::to_string(owned[d].id) + ", that of the batch " + std::to_string(source_[d].count) + " and " +
               std::to_string(source_[d].id));
  }

  void require_equal(shapes local) const {
    for (int p = 0; p < layout_.parts(); ++p)
      if (layout_.tokens(p) != layout_.tokens(0))
        fail({errc::uneven_partition,
              "ranks 0 and " + std::to_string(p) + " own " + std::to_string(layout_.tokens(0)) + " and " +
                  std::to_string(layout_.tokens(p)) + " tokens",
              local == shapes::padded ? "multiple(parts) of the sharding must lead to equal cuts; or use shapes::ragged"
                                      : "Use shapes::ragged, or shapes::padded to add slack rows"});
  }

  documents source_;
  sp::layout layout_;
  int part_ = 0;
  std::uint64_t token_digest_ = 0, serial_ = detail::new_serial();
  detail::box store_{new storage};
};

} // namespace sp
