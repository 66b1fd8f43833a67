// An allocator around an allocator that finds writes outside of blocks: canaries on both sides, and fresh memory full of NaN.
// Used at check level 3; what it takes more than was asked for is block_overhead bytes for each block.
#pragma once

#include <cstring>
#include <string>

#include <sp/core/memory.hpp>

namespace sp {

/// Host memory only, one per rank. Blocks come from `inner`, which outlives them. A block that was written outside is remembered
/// when it is given back, and found by verify() while it is live.
class guarded final : public allocator {
public:
  static constexpr std::size_t margin = alignment;               ///< bytes of canary on either side, at least
  static constexpr index_t block_overhead = index_t(2 * margin); ///< beyond the block, rounded up to `alignment`
  static constexpr unsigned char canary = 0xc5, poison = 0xff;   ///< bytes of 0xff are a NaN in every element type

  explicit guarded(allocator& inner) : inner_(inner) {}
  guarded(guarded const&) = delete;
  guarded& operator=(guarded const&) = delete;

  void* allocate(std::size_t bytes) override {
    live_.reserve(live_.size() + 1);
    auto* base = static_cast<unsigned char*>(inner_.allocate(whole(bytes)));
    block const b{base + margin, bytes, detail::current_site ? *detail::current_site : site{}};
    paint(b);
    std::memset(b.data, poison, bytes);
    live_.push_back(b);
    return b.data;
  }
  void deallocate(void* p, std::size_t bytes) noexcept override {
    for (std::size_t i = live_.size(); i-- > 0;)
      if (live_[i].data == p) {
        inspect(live_[i]);
        live_.erase(live_.begin() + std::ptrdiff_t(i));
        break;
      }
    inner_.deallocate(static_cast<unsigned char*>(p) - margin, whole(bytes));
    if (owned_ && handles_ == 0 && live_.empty()) delete this;
  }
  [[nodiscard]] std::size_t room() const noexcept override { return inner_.room(); }

  /// backend_error if a block that is live, or was given back since the last call, has been written outside.
  void verify() {
    for (block const& b : live_) {
      inspect(b);
      paint(b); // each damage is told once
    }
    if (!damaged_) return;
    damaged_ = false;
    auto const distance = std::to_string(damage_.distance);
    std::string const call = std::string(damage_.hurt.from.object) + damage_.hurt.from.call;
    fail({errc::backend_error,
          "a block of " + std::to_string(damage_.hurt.bytes) + " bytes" + (call.empty() ? "" : ", allocated in " + call + ",") +
              " was written outside: byte " + distance + (damage_.behind ? " behind its end" : " before its begin"),
          "The kernel or the communicator writes where it was given no memory; run it under an address sanitizer"});
  }

  /// Keeps a guarded allocator on the heap until no handle and no block of it is left.
  class handle {
  public:
    handle() = default;
    explicit handle(allocator& inner) : target_(new guarded(inner)) {
      target_->owned_ = true;
      ++target_->handles_;
    }
    handle(handle const& o) : target_(o.target_) {
      if (target_) ++target_->handles_;
    }
    handle(handle&& o) noexcept : target_(std::exchange(o.target_, nullptr)) {}
    handle& operator=(handle o) noexcept {
      std::swap(target_, o.target_);
      return *this;
    }
    ~handle() {
      if (target_ && --target_->handles_ == 0 && target_->live_.empty()) delete target_;
    }
    explicit operator bool() const { return target_ != nullptr; }
    guarded& operator*() const { return *target_; }
    guarded* operator->() const { return target_; }

  private:
    guarded* target_ = nullptr;
  };

private:
  struct block {
    unsigned char* data;
    std::size_t bytes;
    site from; ///< the call that asked for it
  };

  static std::size_t whole(std::size_t n) { return margin + round_up(n, alignment) + margin; }
  static std::size_t tail(std::size_t n) { return round_up(n, alignment) - n + margin; }

  static void paint(block const& b) {
    std::memset(b.data - margin, canary, margin);
    std::memset(b.data + b.bytes, canary, tail(b.bytes));
  }
  void inspect(block const& b) noexcept {
    if (damaged_) return; // the first one is told
    for (std::size_t i = 0; i < tail(b.bytes); ++i)
      if (b.data[b.bytes + i] != canary) return remember(b, i, true);
    for (std::size_t i = 1; i <= margin; ++i)
      if (*(b.data - i) != canary) return remember(b, i, false);
  }
  void remember(block const& b, std::size_t distance, bool behind) noexcept {
    damaged_ = true;
    damage_ = {b, distance, behind};
  }

  allocator& inner_;
  std::vector<block> live_;
  struct {
    block hurt{};
    std::size_t distance = 0;
    bool behind = false;
  } damage_;
  bool damaged_ = false, owned_ = false;
  std::size_t handles_ = 0;
};

namespace detail {
/// While it lives, byte_counter counts blocks as guarded takes them.
class counting_guarded {
public:
  explicit counting_guarded(bool on) : before_(std::exchange(counted_overhead, on ? guarded::block_overhead : 0)) {}
  counting_guarded(counting_guarded const&) = delete;
  counting_guarded& operator=(counting_guarded const&) = delete;
  ~counting_guarded() { counted_overhead = before_; }

private:
  index_t before_;
};
} // namespace detail

} // namespace sp
