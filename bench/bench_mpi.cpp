// sp::mpi against plain MPI between two processes, and strided rows packed by hand against derived datatypes of MPI. Among any number:
// heads for tokens along a prepared route, of few and of many packed documents.
// Run by mpirun -n 2 or more; prints times and ratios, and fails if bytes arrive wrong. SP_BENCH_TINY=1 runs the smallest sizes only.
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <sp/batch.hpp>
#include <sp/mpi.hpp>
#include <sp/route.hpp>

namespace {

using sp::index_t;
using timer = std::chrono::steady_clock;

int const tiny = std::getenv("SP_BENCH_TINY") ? 1 : 0;
int rank = 0;

/// Microseconds of one call: the best of many short rounds, because other programs may be running; both ranks agree about the
/// slower one in each round.
template <class F>
double time_of(index_t bytes, F&& f) {
  int const calls = tiny ? 3 : int(std::clamp<index_t>((index_t{1} << 19) / (bytes + 1), 1, 100));
  int const rounds = tiny ? 1 : int(std::clamp<index_t>((index_t{1} << 27) / (bytes * calls + 1), 12, 400));
  double best = 1e300;
  for (int round = 0; round < rounds; ++round) {
    MPI_Barrier(MPI_COMM_WORLD);
    auto const begin = timer::now();
    for (int i = 0; i < calls; ++i) f();
    double const mine = std::chrono::duration<double, std::micro>(timer::now() - begin).count() / calls;
    double slower = 0;
    MPI_Allreduce(&mine, &slower, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    best = std::min(best, slower);
  }
  return best;
}

void expect(bool good, char const* what) {
  if (good) return;
  std::fprintf(stderr, "bench_mpi: wrong bytes after %s\n", what);
  MPI_Abort(MPI_COMM_WORLD, 1);
}

/// `count` elements of `type` to the other rank and back at the same time.
void swap_plain(void const* out, void* in, int count, MPI_Datatype type) {
  MPI_Request r[2];
  MPI_Irecv(in, count, type, 1 - rank, 0, MPI_COMM_WORLD, &r[0]);
  MPI_Isend(out, count, type, 1 - rank, 0, MPI_COMM_WORLD, &r[1]);
  MPI_Waitall(2, r, MPI_STATUSES_IGNORE);
}
void swap_sp(sp::mpi const& c, std::span<sp::piece const> out, std::span<sp::piece const> in) {
  sp::parcel const send{1 - rank, out}, receive{1 - rank, in};
  c.exchange({"bench", {&send, 1}, {&receive, 1}}).wait();
}

void contiguous(sp::mpi const& owned, sp::mpi const& direct) {
  if (rank == 0) std::printf("%12s %12s %12s %12s %8s %8s\n", "bytes", "plain us", "direct us", "owned us", "direct", "owned");
  for (index_t bytes :
       {index_t{8}, index_t{1024}, index_t{3840}, index_t{16384}, index_t{1} << 17, index_t{1} << 20, index_t{1} << 24}) {
    if (tiny && bytes > 16384) break;
    std::vector<char> out(std::size_t(bytes), char(rank + 1)), in(out.size());
    sp::piece const a = sp::as_piece(sp::view<char, 1>(out.data(), {bytes})),
                    b = sp::as_piece(sp::view<char, 1>(in.data(), {bytes}));
    double const plain = time_of(bytes, [&] { swap_plain(out.data(), in.data(), int(bytes), MPI_BYTE); });
    std::fill(in.begin(), in.end(), char(0));
    double const straight = time_of(bytes, [&] { swap_sp(direct, {&a, 1}, {&b, 1}); });
    expect(std::count(in.begin(), in.end(), char(2 - rank)) == bytes, "a direct exchange");
    std::fill(in.begin(), in.end(), char(0));
    double const chunks = time_of(bytes, [&] { swap_sp(owned, {&a, 1}, {&b, 1}); });
    expect(std::count(in.begin(), in.end(), char(2 - rank)) == bytes, "an owned exchange");
    if (rank == 0)
      std::printf("%12lld %12.2f %12.2f %12.2f %8.2f %8.2f\n", (long long)bytes, plain, straight, chunks, straight / plain,
                  chunks / plain);
  }
}

/// Rows of `width` bytes, every second of a block, to rows of the same kind.
void strided(sp::mpi const& c, index_t total) {
  if (rank == 0)
    std::printf("\nrows of a block of %lld bytes, half of each\n%12s %12s %12s %12s %8s %12s\n", (long long)total, "width",
                "types us", "packed us", "plain us", "ratio", "sp us");
  for (index_t width : {index_t{16}, index_t{64}, index_t{128}, index_t{256}, index_t{1024}, index_t{4096}, index_t{65536}}) {
    if (2 * width > total || (tiny && width > 1024)) break;
    index_t const rows = total / width;
    std::vector<char> out(std::size_t(2 * total), char(rank + 1)), in(out.size()), packed((std::size_t(total))),
        got(packed.size());
    sp::piece const a = sp::as_piece(sp::view<char, 2>(out.data(), {rows, width}, {2 * width, 1}));
    sp::piece const b = sp::as_piece(sp::view<char, 2>(in.data(), {rows, width}, {2 * width, 1}));
    sp::piece const p = sp::as_piece(sp::view<char, 1>(packed.data(), {total})),
                    q = sp::as_piece(sp::view<char, 1>(got.data(), {total}));
    double const types = time_of(total, [&] {
      MPI_Datatype type;
      MPI_Type_create_hvector(int(rows), int(width), 2 * width, MPI_BYTE, &type);
      MPI_Type_commit(&type);
      swap_plain(out.data(), in.data(), 1, type);
      MPI_Type_free(&type);
    });
    expect(in[0] == 2 - rank && in[std::size_t(2 * total - 2 * width)] == 2 - rank && in[std::size_t(width)] == 0, "a datatype");
    double const by_hand = time_of(total, [&] {
      sp::copy({&p, 1}, {&a, 1});
      swap_plain(packed.data(), got.data(), int(total), MPI_BYTE);
      sp::copy({&b, 1}, {&q, 1});
    });
    double const plain = time_of(total, [&] { swap_plain(packed.data(), got.data(), int(total), MPI_BYTE); });
    std::fill(in.begin(), in.end(), char(0));
    double const ours = time_of(total, [&] { swap_sp(c, {&a, 1}, {&b, 1}); });
    expect(in[0] == 2 - rank && in[std::size_t(2 * total - 2 * width)] == 2 - rank && in[std::size_t(width)] == 0,
           "strided rows");
    if (rank == 0)
      std::printf("%12lld %12.2f %12.2f %12.2f %8.2f %12.2f\n", (long long)width, types, by_hand, plain, types / by_hand, ours);
  }
}

/// One parcel of two blocks that lie apart, as keys and values do.
void two_blocks(sp::mpi const& c, index_t bytes) {
  std::vector<char> k(std::size_t(bytes), char(rank + 1)), v(k), k_in(k.size()), v_in(k.size()), packed(2 * k.size()),
      got(2 * k.size());
  std::array<sp::piece, 2> const out{sp::as_piece(sp::view<char, 1>(k.data(), {bytes})),
                                     sp::as_piece(sp::view<char, 1>(v.data(), {bytes}))};
  std::array<sp::piece, 2> const in{sp::as_piece(sp::view<char, 1>(k_in.data(), {bytes})),
                                    sp::as_piece(sp::view<char, 1>(v_in.data(), {bytes}))};
  sp::piece const p = sp::as_piece(sp::view<char, 1>(packed.data(), {2 * bytes})),
                  q = sp::as_piece(sp::view<char, 1>(got.data(), {2 * bytes}));
  double const types = time_of(bytes, [&] {
    MPI_Datatype to, from;
    int const lengths[] = {int(bytes), int(bytes)};
    MPI_Aint a[2], b[2];
    MPI_Get_address(k.data(), &a[0]);
    MPI_Get_address(v.data(), &a[1]);
    MPI_Get_address(k_in.data(), &b[0]);
    MPI_Get_address(v_in.data(), &b[1]);
    MPI_Type_create_hindexed(2, lengths, a, MPI_BYTE, &to);
    MPI_Type_create_hindexed(2, lengths, b, MPI_BYTE, &from);
    MPI_Type_commit(&to);
    MPI_Type_commit(&from);
    MPI_Request r[2];
    MPI_Irecv(MPI_BOTTOM, 1, from, 1 - rank, 0, MPI_COMM_WORLD, &r[0]);
    MPI_Isend(MPI_BOTTOM, 1, to, 1 - rank, 0, MPI_COMM_WORLD, &r[1]);
    MPI_Waitall(2, r, MPI_STATUSES_IGNORE);
    MPI_Type_free(&to);
    MPI_Type_free(&from);
  });
  double const by_hand = time_of(bytes, [&] {
    sp::copy({&p, 1}, out);
    swap_plain(packed.data(), got.data(), int(2 * bytes), MPI_BYTE);
    sp::copy(in, {&q, 1});
  });
  double const twice = time_of(bytes, [&] {
    MPI_Request r[4];
    MPI_Irecv(k_in.data(), int(bytes), MPI_BYTE, 1 - rank, 0, MPI_COMM_WORLD, &r[0]);
    MPI_Irecv(v_in.data(), int(bytes), MPI_BYTE, 1 - rank, 0, MPI_COMM_WORLD, &r[1]);
    MPI_Isend(k.data(), int(bytes), MPI_BYTE, 1 - rank, 0, MPI_COMM_WORLD, &r[2]);
    MPI_Isend(v.data(), int(bytes), MPI_BYTE, 1 - rank, 0, MPI_COMM_WORLD, &r[3]);
    MPI_Waitall(4, r, MPI_STATUSES_IGNORE);
  });
  std::fill(v_in.begin(), v_in.end(), char(0));
  double const ours = time_of(bytes, [&] { swap_sp(c, out, in); });
  expect(std::count(v_in.begin(), v_in.end(), char(2 - rank)) == bytes, "two blocks");
  if (rank == 0)
    std::printf("%12lld %12.2f %12.2f %12.2f %8.2f %12.2f\n", (long long)bytes, types, by_hand, twice, types / by_hand, ours);
}

/// q, k and v of zigzag ranks to all tokens of two heads a rank, as Ulysses does in every layer: the same bytes in few runs and in many.
void heads_for_tokens(sp::mpi const& c, index_t tokens, index_t dim, index_t documents) {
  std::vector<index_t> cu;
  for (index_t d = 0; d <= documents; ++d) cu.push_back(sp::cut(tokens, d, documents));
  sp::batch const b(sp::packed(std::span<index_t const>(cu)), sp::zigzag{}, c);
  sp::run const all{0, tokens, 1};
  sp::mapping const map{0, 0, tokens};
  index_t const heads = 2 * c.size();
  auto const r = sp::route::to_everybody(b.layout(), 0, 1, c.size(), c.rank(), {&all, 1}, {&map, 1});
  std::vector<float> from(std::size_t(3 * b.tokens() * heads * dim), 1), to(std::size_t(3 * tokens * 2 * dim));
  auto routed = [&](index_t i) {
    sp::view<float, 3> const x(from.data() + i * b.tokens() * heads * dim, {b.tokens(), heads, dim});
    sp::view<float, 3> const y(to.data() + i * tokens * 2 * dim, {tokens, 2, dim});
    return sp::routed(r, x, y, sp::head_cut{sp::head_cut::side::from, sp::all_heads(heads, heads)});
  };
  sp::pool scratch;
  double const us = time_of(index_t(to.size() * sizeof(float)) / 8,
                            [&] { sp::exchange(c, "heads", scratch, routed(0), routed(1), routed(2)).wait(); });
  expect(std::count(to.begin(), to.end(), 1.0f) == std::ptrdiff_t(to.size()), "heads for tokens");
  if (rank == 0) std::printf("%12lld %12lld %12.2f\n", (long long)(to.size() * sizeof(float)), (long long)documents, us);
}

} // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size < 2) {
    std::fprintf(stderr, "bench_mpi: run it with mpirun -n 2 or more\n");
    MPI_Finalize();
    return 2;
  }
  {
    using parcels = sp::mpi_options::parcels;
    sp::mpi const owned{MPI_COMM_WORLD}, world{MPI_COMM_WORLD, {.large_parcels = parcels::direct}};
    for (sp::mpi const* c : {&world, &owned}) {
      if (rank == 0)
        std::printf("\nheads for tokens, large parcels %s\n%12s %12s %12s\n", c == &world ? "direct" : "owned", "bytes",
                    "documents", "us");
      for (index_t documents : {10, 1000})
        if (!tiny || documents == 10) heads_for_tokens(*c, tiny ? 800 : 8000, 8, documents);
    }
  }
  if (size == 2) {
    using parcels = sp::mpi_options::parcels;
    sp::mpi const owned{MPI_COMM_WORLD}, world{MPI_COMM_WORLD, {.large_parcels = parcels::direct}};
    contiguous(owned, world);
    for (sp::index_t total : {1 << 14, 1 << 18, 1 << 20})
      if (!tiny || total < 1 << 20) strided(world, total);
    if (rank == 0)
      std::printf("\ntwo blocks apart\n%12s %12s %12s %12s %8s %12s\n", "bytes each", "types us", "packed us", "two us", "ratio",
                  "sp us");
    for (sp::index_t bytes : {1 << 13, 1 << 16, 1 << 19})
      if (!tiny || bytes < 1 << 16) two_blocks(world, bytes);
  }
  MPI_Finalize();
}
