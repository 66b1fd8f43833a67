// Step 5: eight ranks as a mesh of data x ring x ulysses. Each data rank trains on its own documents; within it, four ranks
// share the sequence: pairs exchange heads (ulysses) and the pairs pass keys around (ring). The hybrid is plain nesting.
#include "common.hpp"

#include <sp/cpu.hpp>
#include <sp/threads.hpp>
#include <sp/usp.hpp>

namespace {

constexpr sp::index_t tokens = 600, q_heads = 4, kv_heads = 2, dim = 16;

// Pure arithmetic, known when compiled. The last axis is the fastest: ulysses groups are neighbours, ring groups are strided.
constexpr sp::mesh mesh{sp::axis::data{2}, sp::axis::ring{2}, sp::axis::ulysses{2}};
static_assert(mesh.size() == 8 && mesh.sequence_size() == 4 && mesh.data_size() == 2);

/// The documents and tensors of one data rank.
struct sample {
  sp::packed documents;
  tensor q, k, v;
};
sample sample_of(int data_rank) {
  unsigned seed = 10 * unsigned(data_rank);
  return {data_rank == 0 ? sp::packed{0, tokens} : sp::packed{0, 90, 350, tokens}, random_tensor(tokens, q_heads, dim, seed + 1),
          random_tensor(tokens, kv_heads, dim, seed + 2), random_tensor(tokens, kv_heads, dim, seed + 3)};
}

} // namespace

int main() {
  fmt::print("rank  data  ring  ulysses   shares its sequence with\n");
  for (int r = 0; r < mesh.size(); ++r)
    fmt::print("{:>4}  {:>4}  {:>4}  {:>7}   {}\n", r, mesh.coordinate(r, sp::axis_kind::data),
               mesh.coordinate(r, sp::axis_kind::ring), mesh.coordinate(r, sp::axis_kind::ulysses),
               mesh.members(r, {sp::axis_kind::ring, sp::axis_kind::ulysses}));

  std::vector<double> differences(2);
  sp::threads::run(mesh.size(), [&](auto world) {
    int data_rank = mesh.data_rank(world.rank());
    sample s = sample_of(data_rank);

    // Groups are made from the world's communicator; a trainer that has them already hands them over with mesh.adopt().
    auto sequence = mesh.sequence(world);
    sp::ulysses_attention attention{mesh.ulysses(world), sp::ring_attention{mesh.ring(world), sp::cpu{}, {.mask = sp::causal()}}};

    // Zigzag over the ring, and each shard cut once more for the ranks of its Ulysses group.
    sp::batch batch{s.documents, sp::nested{sp::zigzag{}, mesh.extent(sp::axis_kind::ulysses)}, sequence};

    tensor q = own_rows(batch, s.q), k = own_rows(batch, s.k), v = own_rows(batch, s.v), out = q;
    attention.infer(batch, q.view(), k.view(), v.view(), out.view());
    tensor all = all_rows(sequence, batch, out), expected = all;

    if (mesh.sequence_rank(world.rank()) != 0) return;
    sp::batch one{s.documents, sp::contiguous{}, sp::solo{}};
    sp::ring_attention{sp::solo{}, sp::cpu{}, {.mask = sp::causal()}}.infer(one, s.q.view(), s.k.view(), s.v.view(),
                                                                            expected.view());
    differences[std::size_t(data_rank)] = largest_difference(all, expected);
  });
  return verdict("data rank 0, one document   ", differences[0]) + verdict("data rank 1, three documents", differences[1]);
}
