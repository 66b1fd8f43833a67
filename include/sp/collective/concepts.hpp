// What sp asks of a communicator: rank, size and one grouped exchange. Each further ability is a concept of its own.
// Models live in files of their own; missing abilities fall back to the exchange (operations.hpp).
#pragma once

#include <concepts>
#include <span>

#include <sp/core/piece.hpp>

namespace sp {

/// Everything one rank sends to, or receives from, one peer in one exchange: pieces laid end to end, in an order both sides know.
struct parcel {
  int peer = 0;
  std::span<piece const> pieces;
};

/// What a transport that sends contiguous blocks, see packs_messages, may make of an exchange. Others need not look at it.
struct message_form {
  bool same_pieces = false;       ///< both ends of every parcel cut it into the same pieces, so each may be a message
  std::span<std::byte> room = {}; ///< memory for what is not contiguous, of the communicator's kind and the caller's until wait()
  static constexpr index_t alignment = 64; ///< of each message in it
};

/// One grouped exchange. Parcels of zero bytes are skipped by both sides. A parcel to oneself is legal: its bytes are copied.
/// At most one parcel per peer and direction. `primitive` names the caller in ledgers and errors.
struct traffic {
  char const* primitive = "";
  std::span<parcel const> sends;
  std::span<parcel const> receives;
  message_form form{};
};

/// What a stream-ordered operation returns. wait() makes received bytes visible and sent buffers reusable; a token that is
/// destroyed without wait() has failed, and its communicator with it.
template <class T>
concept token = std::movable<T> && requires(T t) {
  t.wait();
};

/// The base: const handles, cheap to copy. Every rank of the group calls the same operations in the same order.
/// The pieces and parcels given to exchange() stay alive until wait() returns.
template <class C>
concept communicator = std::copyable<C> && requires(C const c, traffic const& t) {
  typename C::memory_type;
  { c.rank() } -> std::same_as<int>;
  { c.size() } -> std::same_as<int>;
  { c.exchange(t) } -> token;
};

/// Pieces may list their rows (piece::rows), so that a message of thousands of runs of rows is one piece. What goes through total_bytes()
/// and copy() reads such lists; a model that looks into pieces itself calls for_each_plain(). Says so with `static constexpr bool
/// row_lists = true`; all others are given plain pieces.
template <class C>
concept has_row_lists = communicator<C> && requires {
  requires bool(C::row_lists);
};

/// Its messages are contiguous blocks: it packs all other pieces, into traffic::form.room where that is large enough. Says so with
/// `static constexpr bool packs = true`, and exchanges along routes then bring room of the call's scratch.
template <class C>
concept packs_messages = communicator<C> && requires {
  requires bool(C::packs);
};

/// Its operations are work of a queue that it was made with: they start after all work which that queue was given, and what was received
/// is there for all work that it is given after wait(). Says so with `static constexpr bool own_queue = true`, and which it is with a member
/// queue(): calls compare theirs with it by ==, and refuse another one. Any other model sends what is in memory at the time of the call, so
/// that work of a queue is waited for before it.
template <class C>
concept has_own_queue = communicator<C> && requires(C const c) {
  requires bool(C::own_queue);
  c.queue();
};

/// The exchange as work of a queue, which is the last argument. So may any of the abilities below be: that C has it is asked with the
/// type of the queue behind the others, as in has_barrier<C, Queue>.
template <class C, class... Queue>
concept has_exchange = communicator<C> && requires(C const c, traffic const& t, Queue const&... q) {
  { c.exchange(t, q...) } -> token;
};

/// Parcels for everybody at once, in one call that beats the grouped exchange.
template <class C, class... Queue>
concept has_all_to_all_v = communicator<C> && requires(C const c, traffic const& t, Queue const&... q) {
  { c.all_to_all_v(t, q...) } -> token;
};

/// Everybody's pieces to everybody: sends holds one parcel (its peer is ignored), receives one per rank. The own receive parcel
/// may be empty: the own part is then in place already.
template <class C, class... Queue>
concept has_all_gather_v = communicator<C> && requires(C const c, traffic const& t, Queue const&... q) {
  { c.all_gather_v(t, q...) } -> token;
};

/// Sum of everybody's values, the same bits on every rank. What this and the next three return may be a token; else they are done when
/// they return, or ordered before all later work of their queue.
template <class C, class T, class... Queue>
concept has_all_reduce = communicator<C> && requires(C const c, view<T, 1, typename C::memory_type> v, Queue const&... q) {
  c.all_reduce(v, q...);
};

/// Rank r ends with the sum over all ranks of the r-th of `parts`, written to `mine`.
template <class C, class T, class... Queue>
concept has_reduce_scatter = communicator<C> && requires(C const c, std::span<view<T, 1, typename C::memory_type> const> parts,
                                                         view<T, 1, typename C::memory_type> mine, Queue const&... q) {
  c.reduce_scatter(parts, mine, q...);
};

/// The root's pieces to everybody.
template <class C, class... Queue>
concept has_broadcast = communicator<C> && requires(C const c, std::span<piece const> pieces, int root, Queue const&... q) {
  c.broadcast(pieces, root, q...);
};

/// Nobody leaves before everybody has come.
template <class C, class... Queue>
concept has_barrier = communicator<C> && requires(C const c, Queue const&... q) {
  c.barrier(q...);
};

/// Groups within a group: ranks that give the same color, ordered by key (then by rank).
template <class C>
concept splittable = communicator<C> && requires(C const c, int color, int key) {
  { c.split(color, key) } -> communicator;
};

/// Buffers published for one call: of(r) lists rank r's pieces, which may be read (and written where the callers agree);
/// release() waits until nobody uses mine any more. publish() returns when everybody has published.
template <class E>
concept publication = std::movable<E> && requires(E e, int r) {
  { e.of(r) } -> std::convertible_to<std::span<piece const>>;
  e.release();
};

/// Ranks that can read and write each other's memory.
template <class C>
concept peer_memory = communicator<C> && requires(C const c, char const* primitive, std::span<piece const> mine) {
  { c.publish(primitive, mine) } -> publication;
};

/// A communicator that can be told that this rank has failed, so that nobody waits for it.
template <class C>
concept abortable = communicator<C> && requires(C const c, error_info const& why) {
  c.abort(why);
};

} // namespace sp
