// Derived types of rows that a route lists: made once, right for every route, shape and address, and freed however long the route lives.
// The types of this program are counted at MPI's own doors.
#include "ranks.hpp"

#include <optional>
#include <random>

#include <sp/batch.hpp>
#include <sp/route.hpp>

namespace test_mpi_types {

long made = 0, committed = 0, freed = 0;
long alive() { return made - freed; }

} // namespace test_mpi_types

extern "C" {
int MPI_Type_contiguous(int n, MPI_Datatype of, MPI_Datatype* t) {
  return ++test_mpi_types::made, PMPI_Type_contiguous(n, of, t);
}
int MPI_Type_create_hvector(int n, int length, MPI_Aint stride, MPI_Datatype of, MPI_Datatype* t) {
  return ++test_mpi_types::made, PMPI_Type_create_hvector(n, length, stride, of, t);
}
int MPI_Type_create_resized(MPI_Datatype of, MPI_Aint lb, MPI_Aint extent, MPI_Datatype* t) {
  return ++test_mpi_types::made, PMPI_Type_create_resized(of, lb, extent, t);
}
int MPI_Type_create_hindexed(int n, int const lengths[], MPI_Aint const places[], MPI_Datatype of, MPI_Datatype* t) {
  return ++test_mpi_types::made, PMPI_Type_create_hindexed(n, lengths, places, of, t);
}
int MPI_Type_create_struct(int n, int const lengths[], MPI_Aint const places[], MPI_Datatype const of[], MPI_Datatype* t) {
  return ++test_mpi_types::made, PMPI_Type_create_struct(n, lengths, places, of, t);
}
int MPI_Type_commit(MPI_Datatype* t) { return ++test_mpi_types::committed, PMPI_Type_commit(t); }
int MPI_Type_free(MPI_Datatype* t) { return ++test_mpi_types::freed, PMPI_Type_free(t); }
}

namespace test_mpi_types {

using namespace mpi_tests;
using sp::index_t;

namespace {

/// Everything above a few bytes travels apart from its header, straight from and to the tensors.
sp::mpi_options const direct{.deadline = 30s, .eager_limit = 64, .large_parcels = sp::mpi_options::parcels::direct};

sp::documents packed_documents(index_t tokens, index_t count, unsigned seed) {
  std::mt19937 g(seed);
  std::vector<index_t> cu{0};
  for (index_t d = 1; d < count; ++d) cu.push_back(sp::max(cu.back(), sp::cut(tokens, d, count) + index_t(g() % 3)));
  cu.push_back(tokens);
  return sp::packed(std::span<index_t const>(cu));
}

/// An int for every element, with holes behind heads and rows: which one it is says its place in the stream.
struct tensor {
  std::vector<int> memory;
  sp::view<int, 3> v; // (tokens, heads, dim)
  tensor(index_t tokens, index_t heads, index_t dim, index_t hole)
      : memory(std::size_t(4 * tokens * (heads * (dim + hole) + hole)), -1), // room for mistakes, which take() finds
        v(memory.data(), {tokens, heads, dim}, {heads * (dim + hole) + hole, dim + hole, 1}) {}
  static int value(index_t position, index_t head, index_t d) { return int((position * 16 + head) * 64 + d); }

  template <class F>
  static void each(sp::layout const& l, int part, F&& f) {
    index_t row = 0;
    for (sp::run const& r : l.runs(part))
      for (index_t i = 0; i < r.count; ++i) f(row++, r.at(i));
  }
  void fill(sp::layout const& l, int part, index_t first_head) {
    each(l, part, [&](index_t row, index_t at) {
      for (index_t h = 0; h < v.extent(1); ++h)
        for (index_t d = 0; d < v.extent(2); ++d) v(row, h, d) = value(at, first_head + h, d);
    });
  }
  /// Holds what fill() writes, and -1 in every hole. Forgets it all.
  bool take(sp::layout const& l, int part, index_t first_head) {
    bool good = true;
    each(l, part, [&](index_t row, index_t at) {
      for (index_t h = 0; h < v.extent(1); ++h)
        for (index_t d = 0; d < v.extent(2); ++d) good = good && std::exchange(v(row, h, d), -1) == value(at, first_head + h, d);
    });
    return good && std::count(memory.begin(), memory.end(), -1) == std::ptrdiff_t(memory.size());
  }
};

/// Rows between two layouts of one stream, for tensors of two shapes: lists on both sides.
struct relaying {
  sp::layout from, to;
  sp::route there, back;
  int me;
  relaying(int parts, int rank, unsigned seed, index_t tokens = 400, index_t documents = 40)
      : from(packed_documents(tokens, documents, seed), sp::zigzag{}, parts),
        to(packed_documents(tokens, documents, seed), sp::striped{}, parts), me(rank) {
    sp::mapping const all{0, 0, tokens};
    there = sp::route::between(from, to, {&all, 1}, rank);
    back = there.transposed();
  }
  /// There and back; whether everything arrived.
  template <class Comm>
  bool run(Comm const& c, index_t hole) const {
    sp::pool scratch;
    tensor q(from.tokens(me), 4, 6, hole), k(from.tokens(me), 2, 6, hole), q_there(to.tokens(me), 4, 6, 0),
        k_there(to.tokens(me), 2, 6, 2 * hole);
    q.fill(from, me, 0);
    k.fill(from, me, 4);
    sp::exchange(c, "there", scratch, sp::routed(there, q.v, q_there.v), sp::routed(there, k.v, k_there.v)).wait();
    tensor q_back(from.tokens(me), 4, 6, 1), k_back(from.tokens(me), 2, 6, hole);
    sp::exchange(c, "back", scratch, sp::routed(back, q_there.v, q_back.v), sp::routed(back, k_there.v, k_back.v)).wait();
    return q_there.take(to, me, 0) && k_there.take(to, me, 4) && q_back.take(from, me, 0) && k_back.take(from, me, 4);
  }
};

template <class Body>
void good_on(int ranks, Body&& body, sp::mpi_options const& options = direct) {
  for (auto const& r : outcomes(ranks, body, options)) CHECK_MESSAGE(!r.failed, r.what);
}

} // namespace

TEST_CASE("mpi types: rows of many routes and shapes, and of routes whose memory others had before") {
  good_on(4, [](sp::mpi const& c) {
    sp::mpi_shared const node(c);
    for (unsigned seed = 0; seed < 12; ++seed) {
      relaying const one(4, c.rank(), seed, 200 + 37 * seed, 3 + 7 * seed);
      for (index_t hole : {0, 1, 0, 5}) CHECK(one.run(c, hole));
      CHECK(one.run(node, 0));
    }
  });
  CHECK(alive() == 0);
}

TEST_CASE("mpi types: a prepared route costs no type after its first call, by heads one for each peer and tensor") {
  good_on(4, [](sp::mpi const& c) {
    relaying const moves(4, c.rank(), 3, 2000);
    CHECK(moves.run(c, 2));
    long const before = made, kept = alive();
    CHECK(kept > 0);
    for (int again = 0; again < 3; ++again) CHECK(moves.run(c, 2)); // tensors at other addresses, perhaps
    CHECK(made == before);
    CHECK(moves.run(c, 3)); // other strides
    CHECK(made > before);

    index_t const tokens = 600, heads = 8,
                  dim = 4; // heads for tokens, as Ulysses: 600 runs on one side, strided rows on the other
    sp::layout const mine(packed_documents(tokens, 150, 5), sp::zigzag{}, 4), whole = mine.grouped(4, 1);
    sp::mapping const all{0, 0, tokens};
    auto const r = sp::route::to_everybody(mine, 0, 1, 4, c.rank(), whole.runs(0), {&all, 1});
    tensor x(mine.tokens(c.rank()), heads, dim, 0), y(tokens, heads / 4, dim, 0), z(tokens, heads / 4, dim, 0);
    x.fill(mine, c.rank(), 0);
    sp::head_cut const cut{sp::head_cut::side::from, sp::all_heads(heads, heads)};
    sp::pool scratch;
    auto step = [&] {
      sp::exchange(c, "heads", scratch, sp::routed(r, x.v, y.v, cut), sp::routed(r, x.v, z.v, cut)).wait();
      CHECK(y.take(whole, 0, 2 * c.rank()));
      CHECK(z.take(whole, 0, 2 * c.rank()));
    };
    step();
    long const at = committed, all_made = made;
    for (int again = 0; again < 5; ++again) step();
    CHECK(committed - at <= 5 * 3 * 2); // of what is sent: rows at one stride
    CHECK(made - all_made <= 5 * 3 * 2 * 4);
  });
  CHECK(alive() == 0);
}

TEST_CASE("mpi types: they end with the communicator or before, whichever lives longer, the route or it") {
  std::optional<relaying> route;
  good_on(4, [&](sp::mpi const& c) {
    route.emplace(4, c.rank(), 1);
    CHECK(route->run(c, 1));
    CHECK(alive() > 0);
  });
  CHECK(alive() == 0); // the route is alive
  good_on(4, [&](sp::mpi const& c) {
    CHECK(route->run(c, 1));
    route.reset();
    c.barrier();
    CHECK(relaying(4, c.rank(), 2).run(c, 1));
  });
  CHECK(alive() == 0);
  // A new list in every exchange: what nobody asks for any more goes.
  good_on(2, [](sp::mpi const& c) {
    std::vector<int> from(160, c.rank()), to(336, -1);
    sp::row_range const even[] = {{0, 2, 3}, {8, 2, 7}};
    piece const out = sp::as_piece(sp::view<int, 2>(from.data(), {10, 16}));
    long most = 0;
    for (int step = 0; step < 300; ++step) {
      piece in = sp::as_piece(sp::view<int, 2>(to.data(), {10, 16}));
      in.rows = {even, sp::detail::new_serial()};
      parcel const send{1 - c.rank(), {&out, 1}}, receive{1 - c.rank(), {&in, 1}};
      c.exchange({"once", {&send, 1}, {&receive, 1}}).wait();
      most = std::max(most, alive());
    }
    CHECK(std::count(to.begin(), to.end(), 1 - c.rank()) == 160);
    CHECK((most >= 128 && most <= 256));
  });
  // What is still there when MPI has gone is not given back to it.
  static sp::detail::mpi_types late;
  static sp::row_range const two[] = {{3, 1, 2}, {0, 1, 1}};
  sp::detail::mpi_calls calls;
  sp::detail::mpi_type unused;
  piece p = sp::as_piece(sp::view<int, 2>(nullptr, {3, 2}));
  p.rows = {two, sp::detail::new_serial()};
  CHECK(late.of(calls, p, unused) == late.of(calls, p, unused));
  CHECK(unused.get() == MPI_DATATYPE_NULL);
  CHECK(alive() > 0);
  made = freed = 0;
}

TEST_CASE("mpi types: a list that is too long to be kept, and one that nobody has numbered") {
  good_on(2, [](sp::mpi const& c) {
    constexpr index_t n = 140000; // ranges, of one row of 16 bytes
    std::vector<std::array<int, 4>> from(n), to(2 * n);
    for (index_t i = 0; i < n; ++i) from[std::size_t(i)].fill(int(i) * 2 + c.rank());
    std::vector<sp::row_range> even;
    for (index_t i = 0; i < n; ++i) even.push_back({2 * ((i * 3) % n), 1, 1}); // n is no multiple of 3
    for (std::uint64_t serial : {sp::detail::new_serial(), std::uint64_t(0)}) {
      index_t const rows = serial ? n : 1000;
      piece out = sp::as_piece(sp::view<int, 2>(from[0].data(), {rows, 4})),
            in = sp::as_piece(sp::view<int, 2>(to[0].data(), {rows, 4}));
      in.rows = {std::span<sp::row_range const>(even).first(std::size_t(rows)), serial};
      parcel const send{1 - c.rank(), {&out, 1}}, receive{1 - c.rank(), {&in, 1}};
      c.exchange({"long", {&send, 1}, {&receive, 1}}).wait();
      bool good = true;
      for (index_t i = 0; i < rows; ++i)
        good = good && std::exchange(to[std::size_t(even[std::size_t(i)].first)][3], -1) == int(i) * 2 + 1 - c.rank();
      CHECK(good);
      CHECK(alive() == 0);
    }
  });
}

} // namespace test_mpi_types
