// One group of ranks over an NCCL communicator: an exchange is one ncclGroup on the queue's lane, packed before and unpacked behind.
// Groups made by a split are lists of ranks that send over the parent communicator; nothing of NCCL is made for them.
#pragma once

#include <sp/collective/family/members.hpp>
#include <sp/collective/family/messages.hpp>
#include <sp/collective/nccl/family.hpp>
#include <sp/collective/threads/on_exception.hpp>
#include <sp/core/elementwise.hpp>

namespace sp::detail {

/// Over a cuda_queue; a template because only programs that exchange need to compile work for a device.
template <class Queue>
class nccl_group : public group_members {
public:
  nccl_group(std::shared_ptr<nccl_family> family, std::vector<int> world_ranks, int rank, int number)
      : group_members(std::move(world_ranks), number), family_(std::move(family)), rank_(rank), marks_(std::size_t(size())),
        flight_(family_->recorder()->join(number, rank, this->world_ranks())) {
    for (int r = 0; r < size(); ++r) is_world_ = is_world_ && world(r) == r;
    is_world_ = is_world_ && size() == family_->ranks();
  }

  [[nodiscard]] static std::shared_ptr<nccl_group> world_of(ncclComm_t comm, Queue queue, nccl_options const& options) {
    auto family = std::make_shared<nccl_family>(comm, std::move(queue), options);
    std::vector<int> everybody;
    for (int r = 0; r < family->ranks(); ++r) everybody.push_back(r);
    int const rank = family->world();
    return std::make_shared<nccl_group>(std::move(family), std::move(everybody), rank, 0);
  }

  int rank() const noexcept { return rank_; }
  nccl_family& family() const noexcept { return *family_; }

  /// Queues everything of an exchange; returns its number.
  std::uint64_t exchange(traffic const& t) {
    return start(t, own_parcels(rank_, t), [&](open_exchange& e) { e.messages.assign(t, rank_); });
  }
  /// The same where everybody is sent the same parcel.
  std::uint64_t all_gather(traffic const& t) {
    bool const one_call = is_world_ && size() > 1 && message_list::gathers_equal_blocks(t, rank_, size());
    auto own = own_parcels(rank_, t);
    own.first = t.sends.empty() ? std::span<piece const>() : t.sends[0].pieces;
    if (total_bytes(own.second) == 0) own = {}; // in place
    return start(t, own, [&](open_exchange& e) {
      if (one_call)
        e.messages.assign_equal_gather(t, rank_, size());
      else
        e.messages.assign_gather(t, rank_, size());
    });
  }
  /// The sum of everybody's values in one call, over a communicator of exactly these ranks; null: the borrowed one.
  std::uint64_t all_reduce(ncclComm_t over, ncclDataType_t type, piece const& x) {
    return start({"all_reduce", {}, {}}, {}, [&](open_exchange& e) {
      e.messages.assign_sum(x);
      e.sum = {over, type, x.elements()};
    });
  }
  /// A communicator of NCCL over exactly these ranks, which the family looks after. Every rank of the borrowed one makes its own at once.
  [[nodiscard]] ncclComm_t communicator_of_group() {
    constexpr char const* primitive = "native_sums";
    occupancy guard(*this, primitive);
    if (family_->captured(primitive))
      refuse(rank_, primitive, "a graph is being captured", "Make sp::native_sums before cudaStreamBeginCapture");
    if (family_->open_exchanges > 0)
      refuse(rank_, primitive, std::to_string(family_->open_exchanges) + " tokens have not been waited for",
             "Wait for every token before sp::native_sums is made: NCCL splits no communicator that is in use");
    wait_until_quiet(primitive);
    return split_off(primitive);
  }
  /// Refuses `what` where an older library was found.
  void needs_nccl(int version, char const* what, char const* primitive) const {
    if (int const found = family_->version(); found < version)
      sp::fail({errc::unsupported,
                std::string(what) + " need NCCL " + nccl_version_text(version) + ", " + nccl_version_text(found) + " was found",
                "Use a newer NCCL, or sums of float", primitive, rank_, size()});
  }
  /// Whether the ranks are those of the borrowed communicator, in any order.
  bool has_all_ranks() const noexcept { return size() == family_->ranks(); }

  /// Orders exchange `number` before all later work of the queue.
  void wait(std::uint64_t number) {
    open_exchange& e = exchange_of(exchanges_, number);
    occupancy guard(*this, e.primitive);
    if (!e.open) throw_cause(e.primitive, int(number));
    family_->queue().wait(e.done); // also of a family that has failed: memory that the caller gives back is still in use
    close(e);
    if (family_->failed()) throw_cause(e.primitive, int(number));
  }
  /// A token died unwaited: the family ends. What the exchange uses is given back behind it all the same.
  void drop(std::uint64_t number) noexcept {
    open_exchange& e = exchange_of(exchanges_, number);
    if (!e.open) return;
    best_effort([&] {
      family_->fail(
          failure_in_destructor(world(rank_), "token dropped", [&] { return dropped_token(rank_, e.primitive, int(number)); }));
    });
    best_effort([&] { family_->queue().wait(e.done); });
    close(e);
  }

  /// Everybody's color and key become groups; the result is this rank's. It waits for all ranks of the group, up to the deadline.
  [[nodiscard]] std::shared_ptr<nccl_group> split(int color, int key) {
    if (family_->captured("split"))
      refuse(rank_, "split", "a graph is being captured", "Make all groups before cudaStreamBeginCapture");
    auto const everybodys = gather_on_host({color, key, family_->next_group()});
    std::vector<std::int64_t> colors;
    int first = 0;
    for (int r = 0; r < size(); ++r) {
      colors.push_back(everybodys[std::size_t(r)][0]);
      first = std::max(first, int(everybodys[std::size_t(r)][2])); // beyond every group that any of us is in
    }
    std::sort(colors.begin(), colors.end());
    colors.erase(std::unique(colors.begin(), colors.end()), colors.end());
    int const number = first + int(std::lower_bound(colors.begin(), colors.end(), color) - colors.begin());
    family_->take_groups(first + int(colors.size()));
    std::vector<int> const order = ranks_of_color(
        size(), [&](int r) { return everybodys[std::size_t(r)][0]; }, [&](int r) { return everybodys[std::size_t(r)][1]; },
        std::int64_t(color));
    std::vector<int> world_ranks;
    for (int r : order) world_ranks.push_back(world(r));
    int const rank = int(std::find(order.begin(), order.end(), rank_) - order.begin());
    return std::make_shared<nccl_group>(family_, std::move(world_ranks), rank, number);
  }

  void abort(error_info const& why) { family_->abort(abort_of(rank_, why)); }
  /// Looks at everything under way, and throws what the family has failed with.
  void poll(char const* primitive) {
    family_->look();
    if (family_->failed()) throw_cause(primitive, -1);
  }

private:
  using values = std::array<std::int64_t, 3>; ///< of one rank in split()

  /// What a sum in one call needs besides.
  struct sum_call {
    ncclComm_t over = nullptr; ///< null: the borrowed one
    ncclDataType_t type = ncclInt8;
    index_t count = 0;
  };
  struct open_exchange {
    bool open = false;
    char const* primitive = "";
    std::uint64_t number = 0;
    message_list messages;
    sum_call sum{};
    std::byte* borrowed = nullptr; ///< from the family, where the caller brought no room
    typename Queue::event done;
  };
  /// Two threads of a rank inside at once are a mistake of the caller.
  struct occupancy {
    nccl_group& group;
    occupancy(nccl_group& g, char const* primitive) : group(g) {
      if (!g.family_->enter())
        g.refuse(g.rank_, primitive, "another thread of this rank is inside an operation on the same communicator or its groups",
                 "Use a communicator and all groups split from it from one thread at a time");
    }
    occupancy(occupancy const&) = delete;
    ~occupancy() { group.family_->leave(); }
  };

  using piece_lists = std::pair<std::span<piece const>, std::span<piece const>>;

  /// `own`: what this rank sends to itself, and where that lands.
  template <class Assign>
  std::uint64_t start(traffic const& t, piece_lists const& own, Assign&& assign) {
    occupancy guard(*this, t.primitive);
    family_->look_now_and_then();
    if (family_->failed()) throw_cause(t.primitive, int(entered_));
    std::uint64_t const number = entered_;
    open_exchange& e = unused_exchange(exchanges_, number, rank_, t.primitive);
    check_peers(rank_, t, marks_);
    if (index_t const sent = total_bytes(own.first), expected = total_bytes(own.second); sent != expected)
      fail_here(errc::short_message, counts_text(rank_, sent, rank_, expected),
                "Both parcels to oneself must hold the same bytes", t.primitive, rank_);
    assign(e);
    place(e, t);
    e.primitive = t.primitive;
    e.number = number;
    watched_exchange const what = watched(e);
    family_->recorder()->posted(what.flight, bytes_of(e.messages.sends()), bytes_of(e.messages.receives()));
    try_or([&] { queue_all(e, own, what); }, [&] { interrupted(e, what); });
    e.open = true;
    ++family_->open_exchanges;
    ++entered_;
    return number;
  }
  /// Nobody else knows of it: the others wait for what does not come, up to their deadlines.
  [[noreturn]] void fail_here(errc code, std::string problem, std::string remedy, char const* primitive, int peer = -1) {
    family_->fail(failure_between(rank_, code, peer, std::move(problem), std::move(remedy), primitive, int(entered_)));
    throw_cause(primitive, int(entered_));
  }
  void interrupted(open_exchange& e, watched_exchange const& what) noexcept {
    give_back(e);
    family_->recorder()->failed(what.flight);
    if (family_->failed()) return;
    best_effort([&] {
      family_->fail(failure_in_destructor(world(rank_), "exception",
                                          [&] { return interrupted_operation(rank_, what.primitive, what.step); }));
    });
  }

  /// Memory for what is packed: the caller's, or, where there is none, a block of the family.
  void place(open_exchange& e, traffic const& t) {
    index_t const bytes = e.messages.room();
    if (bytes > index_t(t.form.room.size())) e.borrowed = family_->borrow(bytes, t.primitive);
    e.messages.place(e.borrowed ? e.borrowed : t.form.room.data());
  }
  void give_back(open_exchange& e) noexcept {
    if (e.borrowed) family_->give_back(std::exchange(e.borrowed, nullptr));
  }
  watched_exchange watched(open_exchange const& e) {
    watched_exchange what{.primitive = e.primitive, .group = number(), .rank = rank_, .size = size(), .step = int(e.number)};
    what.flight = family_->recorder()->begin(flight_, operation_kind::exchange, e.primitive);
    if (e.messages.in_one_call())
      for (int r = 0; r < size(); ++r)
        if (r != rank_) what.add_peer(r);
    for (auto list : {e.messages.receives(), e.messages.sends()})
      for (message_list::message const& m : list) what.add_peer(m.block.peer);
    return what;
  }
  static index_t bytes_of(std::span<message_list::message const> list) noexcept {
    index_t n = 0;
    for (message_list::message const& m : list) n += m.block.bytes;
    return n;
  }

  /// Own bytes, packing, messages and unpacking, in this order on the lane, behind all that the queue has been given.
  void queue_all(open_exchange& e, piece_lists const& own, watched_exchange const& what) {
    auto const& lane = family_->lane();
    lane.wait(family_->queue().record());
    if (!e.messages.gathered().to) lane.copy(own.second, own.first); // else NCCL brings it along
    bool const watched = !e.messages.empty() && !family_->captured(what.primitive);
    copy(lane, e.messages.packs());
    typename Queue::event const begin = watched ? lane.record() : typename Queue::event();
    if (!e.messages.empty()) send(e, what);
    copy(lane, e.messages.unpacks());
    e.done = lane.record();
    watched ? family_->watch(begin, e.done, what) : family_->recorder()->done(what.flight); // nobody can see its end
  }
  static void copy(Queue const& lane, piece_copies const& list) {
    if (!list.to.empty()) lane.copy(list.to, list.from);
  }
  /// One group: the calls start together, so that neither order nor other pairs matter.
  void send(open_exchange const& e, watched_exchange const& what) {
    on_device const here(family_->queue().device(), what.primitive);
    ncclResult_t result = ncclSuccess;
    char const* call = nullptr;
    bool in_progress = false;
    ncclComm_t used = nullptr;
    {
      nccl_family::inside_calls const inside(*family_, what);
      used = e.sum.over && e.messages.summed().bytes > 0 && inside.comm() ? e.sum.over : inside.comm();
      nccl_calls calls;
      list_calls(calls, e, used);
      result = calls.end();
      call = calls.call();
      in_progress = calls.in_progress();
    }
    if (result == ncclSuccess && in_progress) result = family_->settle(used);
    if (result == ncclSuccess) return;
    fail_here(is_in_progress(result) ? errc::timeout : errc::backend_error, nccl_text(call ? call : "ncclGroupEnd", result),
              nccl_remedy(result), what.primitive);
  }
  void list_calls(nccl_calls& calls, open_exchange const& e, ncclComm_t comm) {
    message_list const& list = e.messages;
    cudaStream_t const stream = family_->lane().stream();
    if (gathered_blocks const& all = list.gathered(); all.to)
      return calls.add("ncclAllGather",
                       [&] { return ncclAllGather(all.from, all.to, std::size_t(all.bytes), ncclInt8, comm, stream); });
    if (summed_block const& x = list.summed(); x.bytes > 0)
      return calls.add("ncclAllReduce", [&] {
        return ncclAllReduce(x.data, x.data, std::size_t(e.sum.count), e.sum.type, ncclSum, comm, stream);
      });
    auto add = [&](char const* call, auto* f, std::span<message_list::message const> messages) {
      for (auto const& [block, pieces, at] : messages)
        calls.add(call, [&, &b = block] { return f(b.data, std::size_t(b.bytes), ncclInt8, world(b.peer), comm, stream); });
    };
    add("ncclSend", &ncclSend, list.sends());
    add("ncclRecv", &ncclRecv, list.receives());
  }

  void close(open_exchange& e) noexcept {
    give_back(e);
    e.open = false;
    --family_->open_exchanges;
  }

  /// Everybody's numbers, by way of the device: this and poll() are what the host learns of other ranks.
  std::vector<values> gather_on_host(values const& mine) {
    Queue const& queue = family_->queue();
    owned<std::int64_t, 2, device_memory> there(*family_->options().memory, {size(), index_t(mine.size())});
    auto row = [&](int r) { return there.tensor.rows(r, 1); };
    queue.upload(reinterpret_cast<std::byte*>(row(rank_).data), std::as_bytes(std::span(mine)));
    piece const out = as_piece(row(rank_));
    parcel const to{rank_, {&out, 1}};
    std::vector<piece> pieces;
    std::vector<parcel> from;
    for (int r = 0; r < size(); ++r) pieces.push_back(as_piece(row(r)));
    for (int r = 0; r < size(); ++r) from.push_back({r, {&pieces[std::size_t(r)], r == rank_ ? std::size_t(0) : std::size_t(1)}});
    wait(all_gather({"split", {&to, 1}, from}));
    wait_until_quiet("split");
    std::vector<values> all(std::size_t{world_ranks().size()});
    read_now(queue, view<std::int64_t, 2>(all[0].data(), {size(), index_t(mine.size())}), there.tensor);
    return all;
  }

  /// The host waits for what is under way; not by synchronize(): a peer may never come.
  void wait_until_quiet(char const* primitive) {
    for (;;) {
      poll(primitive);
      if (family_->quiet()) return;
      std::this_thread::yield();
    }
  }
  ncclComm_t split_off([[maybe_unused]] char const* primitive) {
#if NCCL_VERSION_CODE >= 21800
    if (family_->version() >= nccl_version_number(2, 18, 0)) {
      int const color = *std::min_element(world_ranks().begin(), world_ranks().end());
      on_device const here(family_->queue().device(), primitive);
      watched_exchange what{.primitive = primitive, .group = number(), .rank = rank_, .size = size()};
      for (int r = 0; r < family_->ranks(); ++r)
        if (r != family_->world()) what.add_peer(r);
      ncclComm_t made = nullptr;
      ncclResult_t const result = family_->split(color, rank_, what, made);
      if (result != ncclSuccess || !made)
        fail_here(is_in_progress(result) ? errc::timeout : errc::backend_error, nccl_text("ncclCommSplit", result),
                  nccl_remedy(result), primitive);
      return made;
    }
#endif
    sp::fail({errc::unsupported,
              "sums of a group need ncclCommSplit: NCCL " + nccl_version_text(family_->version()) +
                  " was found, the header is of " + nccl_version_text(NCCL_VERSION_CODE),
              "Use NCCL 2.18 or later, or the sums of sp::nccl", primitive, rank_, size()});
  }

  [[noreturn]] void throw_cause(char const* primitive, int step) {
    bool before = has_thrown_.exchange(true); // poll() may throw on another thread
    group_members::throw_cause(family_->cause(), family_->ranks(), rank_, before, primitive, step);
  }

  std::shared_ptr<nccl_family> family_;
  int rank_;
  bool is_world_ = true;
  std::atomic<bool> has_thrown_{false};
  std::array<open_exchange, outstanding> exchanges_{};
  std::uint64_t entered_ = 0;
  peer_marks marks_;
  flight_group flight_;
};

} // namespace sp::detail
