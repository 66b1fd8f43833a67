// One pass of linear attention by state, forwards or backwards: the memory of its states, and the order of its work.
// What others wait for comes first, own work is done while maps travel, and what waits for others comes last; chunk of heads by chunk.
#pragma once

#include <new>

#include <sp/attention/call/pipeline.hpp>
#include <sp/attention/ulysses/memory.hpp>
#include <sp/core/elementwise.hpp>
#include <sp/layout/route_exchange.hpp>
#include <sp/linear/linear_saved.hpp>
#include <sp/linear/state_bodies.hpp>
#include <sp/linear/state_plan.hpp>

namespace sp::detail {

/// Things of one type in memory of the host, default-constructed; movable. It dies on any thread, if `from` takes blocks back on any.
template <class S>
class kept_list {
public:
  kept_list() = default;
  kept_list(allocator& from, index_t n) : memory_(from, checked_mul(n, index_t(sizeof(S)))) {
    static_assert(alignof(S) <= allocator::alignment);
    if (!memory_.template as<S>(std::array{n}).data) return; // bytes are counted
    for (; count_ < n; ++count_) ::new (static_cast<void*>(&(*this)[count_])) S();
  }
  kept_list(kept_list&& o) noexcept : memory_(std::move(o.memory_)), count_(std::exchange(o.count_, 0)) {}
  kept_list& operator=(kept_list&& o) noexcept {
    std::swap(memory_, o.memory_);
    std::swap(count_, o.count_);
    return *this;
  }
  ~kept_list() {
    while (count_ > 0) (*this)[--count_].~S();
  }
  [[nodiscard]] S& operator[](index_t i) const { return memory_.template as<S>(std::array{i + 1}).data[i]; }
  [[nodiscard]] index_t size() const noexcept { return count_; }

private:
  buffer memory_;
  index_t count_ = 0;
};

/// Heads of one chunk: key heads whole, with their value heads.
struct head_span {
  index_t k_first = 0, k_count = 0, v_first = 0, v_count = 0;

  static head_span of(linear_shape const& s, index_t chunk, index_t chunks) {
    index_t const each = s.v_heads / s.k_heads, first = cut(s.k_heads, chunk, chunks),
                  count = cut(s.k_heads, chunk + 1, chunks) - first;
    return {first, count, first * each, count * each};
  }
  static head_span widest(linear_shape const& s, index_t chunks) {
    index_t const each = s.v_heads / s.k_heads, count = ceil_div(s.k_heads, chunks);
    return {0, count, 0, count * each};
  }
};

/// What a passage asks for besides what is held and kept: slots of states, and the maps of others.
template <class A, class M>
struct passage_room {
  owned<A, 4, M> sent, arrived, passed; // (slots, value heads, key dim, value dim)
  owned<A, 3, M> maps;                  // (maps of others, value heads, map_width)

  passage_room(basic_allocator<M>& scratch, linear_passage const& p, linear_shape const& s, map_form form)
      : sent(scratch, states(p.sent, s)), arrived(scratch, states(p.arrived, s)), passed(scratch, states(p.passed, s)),
        maps(scratch, {p.arrived_maps, s.v_heads, map_width(form, s.key_dim)}) {}
  static std::array<index_t, 4> states(index_t n, linear_shape const& s) { return {n, s.v_heads, s.key_dim, s.value_dim}; }
};

/// What both passes have in common. M: map_form of the kernel's maps.
template <class Kernel, class T, class Queue>
struct state_pass {
  using memory_type = typename Queue::memory_type;
  using A = accumulate_t<T>;
  using states = view<A, 4, memory_type>; // (slots or documents, value heads, key dim, value dim)
  using plan = linear_state_plan<memory_type>;
  using call_type = linear_call_t<Kernel, T>;
  static constexpr map_form form = Kernel::form;

  plan const& p;
  linear_passage const& way;
  context<Queue> const& ctx;
  Kernel const& kernel;
  call_type const& in;
  bool transposed; ///< maps take gradients back
  states held;     ///< what enters own segments
  view<A, 3, memory_type> own_maps;
  passage_room<A, memory_type> room;

  state_pass(plan const& of, linear_passage const& along, context<Queue> const& where, Kernel const& by, call_type const& tensors,
             bool back, states const& entering, view<A, 3, memory_type> const& maps)
      : p(of), way(along), ctx(where), kernel(by), in(tensors), transposed(back), held(entering), own_maps(maps),
        room(*where.scratch, along, tensors.shape(), form) {}

  /// The tensors of an own segment, heads of one chunk.
  [[nodiscard]] call_type call(std::size_t segment, head_span const& h) const {
    call_type c{
        part(in.q, segment, h.k_first, h.k_count), part(in.k, segment, h.k_first, h.k_count), value_part(in.v, segment, h), {}};
    for (std::size_t i = 0; i < c.gates.size(); ++i) c.gates[i] = value_part(in.gates[i], segment, h);
    return c;
  }
  template <class X>
  [[nodiscard]] view<X, 3, memory_type> value_part(view<X, 3, memory_type> const& x, std::size_t segment,
                                                   head_span const& h) const {
    return part(x, segment, h.v_first, h.v_count);
  }
  template <class X>
  [[nodiscard]] view<X, 3, memory_type> part(view<X, 3, memory_type> const& x, std::size_t segment, index_t first,
                                             index_t count) const {
    return x.rows(p.own[segment].row, p.own[segment].count).narrow(1, first, count);
  }
  /// A slot; null for what is nowhere or given to the call.
  [[nodiscard]] view<A, 3, memory_type> slot(state_place const& at, head_span const& h) const {
    switch (at.of) {
    case state_place::held:
      return state_at(held, at.slot, h.v_first, h.v_count);
    case state_place::sent:
      return state_at(room.sent.tensor, at.slot, h.v_first, h.v_count);
    case state_place::passed:
      return state_at(room.passed.tensor, at.slot, h.v_first, h.v_count);
    case state_place::arrived:
      return state_at(room.arrived.tensor, at.slot, h.v_first, h.v_count);
    case state_place::nowhere:
    case state_place::outer:
      break;
    }
    return {};
  }
  [[nodiscard]] view<A, 2, memory_type> map_at(view<A, 3, memory_type> const& maps, index_t i, head_span const& h) const {
    auto const rows = maps.rows(i, 1).narrow(1, h.v_first, h.v_count);
    return {rows.data, {h.v_count, maps.extent(2)}, {maps.stride(1), 1}};
  }

  /// to = M from + b
  void join(view<A, 2, memory_type> const& m, view<A const, 3, memory_type> const& from, view<A const, 3, memory_type> const& b,
            view<A, 3, memory_type> const& to) const {
    join_body<A, memory_type> const body{form, map_of(form, m, in.shape().key_dim, transposed), from, b, to};
    ctx.queue.for_each(body.tiles(), body);
  }
  void join_arrived(linear_passage::join const& j, head_span const& h) const {
    auto const b = slot({state_place::arrived, j.arrived}, h);
    view<A, 2, memory_type> m;
    if (j.map >= 0) m = map_at(room.maps.tensor, j.map, h);
    join(m, j.map < 0 ? view<A, 3, memory_type>{} : slot(j.from, h), b, slot(j.to, h));
  }

  /// What others are sent of a chunk.
  template <class Comm>
  [[nodiscard]] auto send(Comm const& comm, char const* primitive, head_span const& h) const {
    auto of = [&](auto const& x) { return x.narrow(1, h.v_first, h.v_count); };
    return sp::exchange(comm, primitive, ctx, routed(way.states, of(room.sent.tensor), of(room.arrived.tensor)),
                        routed(way.to_joins, of(own_maps), of(room.maps.tensor)));
  }
};

/// All chunks of a pass: x.compute(visit, heads, chunk) takes the state through an own segment, x.reduce(map, heads) makes its map,
/// x.first(visit, heads) what leaves the segment at which a document begins, without what else compute makes. Whoever waits for the
/// first chunk waits for no more than that; from the second one on nothing is computed twice.
template <class Comm, class Pass>
void run_passage(Comm const& comm, char const* primitive, index_t chunks, Pass const& x) {
  linear_passage const& way = x.way;
  auto heads = [&](index_t i) { return head_span::of(x.in.shape(), i, chunks); };
  auto visit = [&](std::size_t v, index_t i) { x.compute(way.visits[v], heads(i), i); };
  auto local = [&](index_t i) {
    for (std::size_t v : way.local) visit(v, i);
  };
  if (way.all_states == 0) { // nobody waits for anybody
    for (index_t i = 0; i < chunks; ++i) local(i);
    return;
  }
  auto start = [&](index_t i) {
    for (std::size_t v : way.early)
      if (i > 0 || !way.visits[v].first())
        visit(v, i);
      else
        x.first(way.visits[v], heads(i));
    for (linear_passage::reduced const& m : way.maps) x.reduce(m, heads(i));
    return x.send(comm, primitive, heads(i));
  };
  in_flight<decltype(start(0))> flights[2];
  flights[0].start([&] { return start(0); });
  for (index_t i = 0; i < chunks; ++i) {
    if (i + 1 < chunks) flights[(i + 1) % 2].start([&] { return start(i + 1); });
    for (std::size_t v : way.early)
      if (i == 0 && way.visits[v].first()) x.compute(way.visits[v].ending_here(), heads(i), i);
    local(i);
    flights[i % 2].wait();
    for (linear_passage::action const& a : way.late)
      if (a.visits)
        visit(a.index, i);
      else
        x.join_arrived(way.joins[a.index], heads(i));
  }
}

} // namespace sp::detail
