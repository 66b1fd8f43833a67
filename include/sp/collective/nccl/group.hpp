// One group of ranks over an NCCL communicator: an exchange is one ncclGroup on the queue's lane, packed before and unpacked behind.
// Groups made by a split are lists of ranks that send over the parent communicator; nothing of NCCL is made for them.
#pragma once

#include <sp/collective/family/members.hpp>
#include <sp/collective/nccl/family.hpp>
#include <sp/collective/nccl/messages.hpp>
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
    return start(t, own_parcels(rank_, t), [&](message_list& m) { m.assign(t, rank_); });
  }
  /// The same where everybody is sent the same parcel.
  std::uint64_t all_gather(traffic const& t) {
    bool const one_call = is_world_ && size() > 1 && message_list::gathers_equal_blocks(t, rank_, size());
    auto own = own_parcels(rank_, t);
    own.first = t.sends.empty() ? std::span<piece const>() : t.sends[0].pieces;
    if (total_bytes(own.second) == 0) own = {}; // in place
    return start(t, own, [&](message_list& m) {
      if (one_call)
        m.assign_equal_gather(t, rank_, size());
      else
        m.assign_gather(t, rank_, size());
    });
  }

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

  struct open_exchange {
    bool open = false;
    char const* primitive = "";
    std::uint64_t number = 0;
    message_list messages;
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
    assign(e.messages);
    place(e, t);
    e.primitive = t.primitive;
    e.number = number;
    watched_exchange const what = watched(e);
    family_->recorder()->posted(what.flight, bytes_of(e.messages.sends()), bytes_of(e.messages.receives()));
    try_or([&] { queue_all(e, own, what); }, [&] { interrupted(e, what); });
    e.open = true;
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
    if (e.messages.gathered().to)
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
    if (!e.messages.empty()) send(e.messages, what.primitive);
    copy(lane, e.messages.unpacks());
    e.done = lane.record();
    watched ? family_->watch(begin, e.done, what) : family_->recorder()->done(what.flight); // nobody can see its end
  }
  static void copy(Queue const& lane, piece_copies const& list) {
    if (!list.to.empty()) lane.copy(list.to, list.from);
  }
  /// One group: the calls start together, so that neither order nor other pairs matter.
  void send(message_list const& list, char const* primitive) {
    ncclComm_t const comm = family_->comm();
    cudaStream_t const stream = family_->lane().stream();
    on_device const here(family_->queue().device(), primitive);
    nccl_calls calls;
    if (gathered_blocks const& all = list.gathered(); all.to) {
      calls.add("ncclAllGather", [&] { return ncclAllGather(all.from, all.to, std::size_t(all.bytes), ncclInt8, comm, stream); });
    } else {
      auto add = [&](char const* call, auto* f, std::span<message_list::message const> messages) {
        for (auto const& [block, pieces, at] : messages)
          calls.add(call, [&, &b = block] { return f(b.data, std::size_t(b.bytes), ncclInt8, world(b.peer), comm, stream); });
      };
      add("ncclSend", &ncclSend, list.sends());
      add("ncclRecv", &ncclRecv, list.receives());
    }
    ncclResult_t result = calls.end();
    if (result == ncclSuccess && calls.in_progress()) result = family_->settle();
    if (result == ncclSuccess) return;
    char const* const call = calls.call() ? calls.call() : "ncclGroupEnd";
    fail_here(is_in_progress(result) ? errc::timeout : errc::backend_error, nccl_text(call, result, family_->comm()),
              nccl_remedy(result), primitive);
  }

  void close(open_exchange& e) noexcept {
    give_back(e);
    e.open = false;
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
    while (!family_->quiet()) { // not synchronize(): a peer may never come
      poll("split");
      std::this_thread::yield();
    }
    std::vector<values> all(std::size_t{world_ranks().size()});
    read_now(queue, view<std::int64_t, 2>(all[0].data(), {size(), index_t(mine.size())}), there.tensor);
    return all;
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
