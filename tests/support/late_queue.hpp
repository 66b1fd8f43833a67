// A queue for tests that does everything as late, or as early, as its order allows: work of a lane is interleaved at random.
// A wait that is missing, memory that is given back too early and a hidden synchronisation show as wrong values, faults or errors.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <thread>
#include <tuple>

#include <sp/core/memory.hpp>
#include <sp/core/queue.hpp>

#include "support/elsewhere.hpp"

namespace support {

/// How a late_queue and its lane take turns.
enum class interleaving {
  random,    ///< drawn again and again, and whether work begins at once or only when somebody waits for it
  lane_last, ///< all work is late; that of the lane begins only when something waits for it: shows waits that are missing behind it
  lane_first, ///< the lane works at once, the queue is late: shows waits that are missing before work of the lane
};

/// A handle of a queue of `elsewhere` or of its lane. Both belong to one thread, which drains them when the last handle goes.
class late_queue {
  struct stream;
  struct pair;

public:
  using memory_type = elsewhere;
  static constexpr bool finished_on_return = false;

  /// A point behind all work that a queue had been given. Without a queue: reached.
  class event {
  public:
    event() = default;

  private:
    friend late_queue;
    event(std::shared_ptr<stream> of, std::uint64_t number) : of_(std::move(of)), number_(number) {}
    bool reached() const { return !of_ || of_->finished >= number_; }
    std::shared_ptr<stream> of_;
    std::uint64_t number_ = 0;
  };

  explicit late_queue(unsigned seed = 1, interleaving how = interleaving::random)
      : both_(std::make_shared<pair>(seed, how)), mine_(both_->main) {}

  /// Whether both are the same queue; a lane is another one.
  friend bool operator==(late_queue const& a, late_queue const& b) noexcept { return a.mine_ == b.mine_; }

  /// Forwards or backwards: a body must not depend on the order.
  template <std::size_t Rank, class Body>
  void for_each(std::array<sp::index_t, Rank> const& extents, Body const& body) const {
    give([=, turned = from_either_end<Rank, Body>{extents, relocated(body), both_->coin()}] {
      sp::detail::for_each_index(extents, turned);
    });
  }
  template <class Term, class Store>
  void sums(sp::index_t outputs, sp::index_t terms, Term const& term, Store const& store) const {
    give([=, t = relocated(term), s = relocated(store), back = both_->coin()] {
      for (sp::index_t i = 0; i < outputs; ++i) sp::detail::sums_in_order(back ? outputs - 1 - i : i, 1, terms, t, s);
    });
  }
  /// Pieces may lie in this memory or in the host's.
  void copy(std::span<sp::piece const> to, std::span<sp::piece const> from) const {
    if (both_->refuses) throw std::runtime_error("this queue takes no copies");
    give([t = relocated_pieces(to), f = relocated_pieces(from)] { sp::copy(t, f); });
  }
  /// The bytes are taken along: the caller's are gone, or others, when the work runs.
  void upload(std::byte* to, std::span<std::byte const> bytes) const {
    give([there = elsewhere_region::get().real(to), taken = std::vector<std::byte>(bytes.begin(), bytes.end())] {
      sp::inline_queue::upload(there, taken);
    });
  }
  [[nodiscard]] event record() const {
    std::lock_guard const lock(device().mutex);
    return {mine_, mine_->given};
  }
  void wait(event const& before) const { add({{}, before}); }
  [[nodiscard]] late_queue lane() const { return {both_, both_->lane}; }
  void synchronize() const { finish(record()); }

  // ---- for tests --------------------------------------------------------------------------------------------------------------

  /// Waits for a point of whichever queue.
  static void finish(event const& point) {
    if (!point.of_) return;
    std::unique_lock lock(device().mutex);
    if (*point.of_->held) throw std::logic_error("somebody waits for the work of a queue that is held: a hidden synchronisation");
    point.of_->demand(point.number_);
    if (!device().changed.wait_for(lock, std::chrono::seconds(60), [&] { return point.reached(); }))
      throw std::logic_error("the work of a queue does not end");
  }
  /// Asks for a point, and does not wait for it.
  static void ask(event const& point) {
    std::lock_guard const lock(device().mutex);
    if (point.of_) point.of_->demand(point.number_);
  }
  /// Whether that point has been reached.
  [[nodiscard]] static bool finished(event const& point) {
    std::lock_guard const lock(device().mutex);
    return point.reached();
  }

  /// Any work, in the order of the queue.
  void give(std::function<void()> work) const { add({std::move(work), {}}); }

  /// From now on copy() throws, on the lane too.
  void refuse_copies() const { both_->refuses = true; }

  /// While it lives nothing runs, and synchronize() throws.
  class [[nodiscard]] hold {
  public:
    explicit hold(late_queue const& q) : both_(q.both_) { set(true); }
    hold(hold const&) = delete;
    ~hold() { end(); }
    void end() { set(false); }

  private:
    void set(bool held) {
      std::lock_guard const lock(device().mutex);
      *both_->held = held;
      device().changed.notify_all();
    }
    std::shared_ptr<pair> both_;
  };

private:
  struct step { ///< work, or something to wait for
    std::function<void()> work;
    event before;
  };
  /// Guarded by the mutex of the device.
  struct stream {
    std::deque<step> steps;
    std::uint64_t given = 0, finished = 0, demanded = 0; ///< steps; demanded: somebody waits for so many
    std::shared_ptr<bool> held{};                        ///< of both queues
    void demand(std::uint64_t number) {
      if (demanded >= number) return;
      demanded = number;
      device().changed.notify_all();
    }
    bool wanted() const { return finished < demanded; }
  };
  struct device_state {
    std::mutex mutex;
    std::condition_variable changed;
  };
  static device_state& device() {
    static device_state the;
    return the;
  }

  /// A queue, its lane, and the thread that works for both.
  struct pair {
    std::shared_ptr<stream> main = std::make_shared<stream>(), lane = std::make_shared<stream>();
    std::shared_ptr<bool> held = std::make_shared<bool>(false);
    interleaving how;
    std::minstd_rand random;
    bool closed = false;
    bool at_once = false, lane_first = false; ///< as drawn last
    std::atomic<bool> refuses = false;
    std::atomic<unsigned> coins;
    std::thread worker{};

    pair(unsigned seed, interleaving h) : how(h), random(seed + 1), coins(seed) {
      main->held = lane->held = held;
      draw();
      worker = std::thread([this] { run(); });
    }
    pair(pair const&) = delete;
    ~pair() {
      {
        std::lock_guard const lock(device().mutex);
        closed = true;
        device().changed.notify_all();
      }
      worker.join();
    }
    bool coin() noexcept { return (coins.fetch_add(0x9E3779B9u) >> 16) % 2; }

    void draw() {
      at_once = how == interleaving::random && random() % 2;
      lane_first = how == interleaving::lane_first || (how == interleaving::random && random() % 2);
    }
    void run() {
      std::unique_lock lock(device().mutex);
      for (;;) {
        stream* const s = *held ? nullptr : next();
        if (!s) {
          if (closed && main->steps.empty() && lane->steps.empty()) return;
          device().changed.wait(lock);
          continue;
        }
        step now = std::move(s->steps.front());
        s->steps.pop_front();
        if (now.work) {
          lock.unlock();
          now.work();
          lock.lock();
        }
        ++s->finished;
        if (random() % 4 == 0) draw();
        device().changed.notify_all();
      }
    }
    /// The stream whose turn it is; null: none can or need go on.
    stream* next() {
      bool const all = at_once || closed || main->wanted() || lane->wanted();
      stream* const first = lane_first ? lane.get() : main.get();
      stream* const second = lane_first ? main.get() : lane.get();
      if ((all || how == interleaving::lane_first) && can_go_on(*first)) return first;
      bool const late = how == interleaving::lane_last && !closed && !second->wanted(); // the lane is not asked for
      return all && !late && can_go_on(*second) ? second : nullptr;
    }
    /// Whatever the first step waits for is asked to come.
    static bool can_go_on(stream const& s) {
      if (s.steps.empty()) return false;
      event const& before = s.steps.front().before;
      if (before.reached()) return true;
      before.of_->demand(before.number_);
      return false;
    }
  };

  late_queue(std::shared_ptr<pair> both, std::shared_ptr<stream> mine) : both_(std::move(both)), mine_(std::move(mine)) {}

  void add(step s) const {
    std::lock_guard const lock(device().mutex);
    mine_->steps.push_back(std::move(s));
    ++mine_->given;
    device().changed.notify_all();
  }

  /// Calls a body with its indices as they are, or counted from the other end.
  template <std::size_t Rank, class Body>
  struct from_either_end {
    std::array<sp::index_t, Rank> extents;
    Body body;
    bool back;
    template <class... I>
    void operator()(I... i) const {
      std::array<sp::index_t, Rank> at{i...};
      for (std::size_t d = 0; back && d < Rank; ++d) at[d] = extents[d] - 1 - at[d];
      std::apply(body, at);
    }
  };
  static std::vector<sp::piece> relocated_pieces(std::span<sp::piece const> list) {
    std::vector<sp::piece> here(list.begin(), list.end());
    for (sp::piece& p : here) p.data = elsewhere_region::get().real(p.data);
    return here;
  }

  std::shared_ptr<pair> both_;
  std::shared_ptr<stream> mine_;
};

static_assert(sp::queue<late_queue>);

/// Memory of one late_queue. A block given back is scribbled over in the order of the queue, and may be handed out again at once.
class elsewhere_pool final : public allocator_of<elsewhere> {
public:
  using memory_type = elsewhere;
  explicit elsewhere_pool(late_queue q) : queue_(std::move(q)) {}
  elsewhere_pool(elsewhere_pool const&) = delete;
  ~elsewhere_pool() override {
    queue_.synchronize();
    for (block const& b : free_) elsewhere_region::get().give(b.data, b.bytes);
  }
  late_queue const& queue() const noexcept { return queue_; }
  [[nodiscard]] int blocks_out() const noexcept { return out_; }

  void* allocate(std::size_t bytes) override {
    std::size_t const size = block_size(bytes);
    std::byte* p = nullptr;
    for (std::size_t i = 0; i < free_.size() && !p; ++i)
      if (free_[i].bytes == size) {
        p = free_[i].data;
        free_.erase(free_.begin() + std::ptrdiff_t(i));
      }
    if (!p) p = elsewhere_region::get().take(size);
    queue_.give([p, bytes] { elsewhere_region::get().expose(p, bytes); });
    ++out_;
    return p;
  }
  void deallocate(void* p, std::size_t bytes) noexcept override {
    auto* const data = static_cast<std::byte*>(p);
    queue_.give([data, bytes] { elsewhere_region::get().scribble(data, bytes); });
    free_.push_back({data, block_size(bytes)});
    --out_;
  }

private:
  struct block {
    std::byte* data;
    std::size_t bytes;
  };
  /// With a gap that the address sanitizer sees.
  static std::size_t block_size(std::size_t bytes) {
    return std::size_t(sp::round_up(sp::index_t(bytes), alignment)) + alignment;
  }

  late_queue queue_;
  std::vector<block> free_;
  int out_ = 0;
};

/// A tensor of a pool for test data; the pool knows its queue. Both ways of moving data wait until they are done.
template <class T, int Rank, class Pool>
class pool_tensor {
public:
  using view = sp::view<T, Rank, typename Pool::memory_type>;

  pool_tensor(Pool& pool, typename view::numbers extents) : pool_(pool), view_(nullptr, extents) {
    view_.data = static_cast<T*>(pool.allocate(bytes()));
  }
  pool_tensor(Pool& pool, typename view::numbers extents, std::vector<T> const& values) : pool_tensor(pool, extents) {
    upload(values);
  }
  pool_tensor(pool_tensor const&) = delete;
  ~pool_tensor() { pool_.deallocate(view_.data, bytes()); }

  view const& operator*() const noexcept { return view_; }
  view const* operator->() const noexcept { return &view_; }

  void upload(std::vector<T> const& values) { move(sp::as_piece(view_), sp::as_piece(on_host(values))); }
  [[nodiscard]] std::vector<T> download() const {
    std::vector<T> values(static_cast<std::size_t>(view_.elements()));
    move(sp::as_piece(on_host(values)), sp::as_piece(view_));
    return values;
  }

private:
  std::size_t bytes() const { return std::size_t(view_.elements()) * sizeof(T); }
  static sp::view<T const, 1> on_host(std::vector<T> const& v) { return {v.data(), {sp::index_t(v.size())}}; }
  void move(sp::piece const& to, sp::piece const& from) const {
    pool_.queue().copy({&to, 1}, {&from, 1});
    pool_.queue().synchronize();
  }

  Pool& pool_;
  view view_;
};
template <class T, int Rank>
using elsewhere_tensor = pool_tensor<T, Rank, elsewhere_pool>;

} // namespace support
