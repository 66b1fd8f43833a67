// cuda_flash in captured graphs, over emulated blocks and a fake of the runtime: rings and Ulysses, forward and backward, replayed with other
// inputs, with another step counter of the random key, and with another batch in the tables that the graph reads.
// needs: context cuda
// with all: takes long to compile
#include <sp/cuda_flash.hpp>
#include <sp/ring.hpp>
#include <sp/ulysses.hpp>

#include "cuda/replayed.hpp"

namespace test_flash_graphs {

using cuda_tests::attention_program;
using cuda_tests::counted_pool;
using cuda_tests::same_when_replayed;
using sp::index_t;
using support::interleaving;

namespace {

/// Small tiles where a block is emulated, those that are shipped on a device.
struct tiles {
  static constexpr sp::detail::flash_shape tiny{.forward_rows = 16, .backward_rows = 16, .keys = 16, .slabs = 1};
  static constexpr sp::detail::flash_shape shape = cuda_tests::on_a_device ? sp::detail::flash_tuning::shape : tiny;
  using dims = sp::detail::head_dims<cuda_tests::on_a_device ? 64 : 16>;
};
using flash = sp::basic_cuda_flash<tiles, sp::dropout>;
flash kernel() { return flash{sp::flash_options{.deterministic = true}, sp::dropout{0.3}}; }
constexpr std::array<index_t, 3> shape{4, 2, 16}; // heads of queries and of keys, dim

/// Prepared for short documents, with room for one that every rank has a part of.
template <class Object>
auto program_of(sp::cuda_local const& comm, counted_pool& memory, Object object) {
  auto cut = [&](sp::documents const& docs) { return sp::batch(docs, sp::contiguous{sp::scope::stream}, comm); };
  return std::make_unique<attention_program<sp::bf16, Object>>(
      comm, memory, std::move(object), shape, cut(sp::packed{0, 13, 20, 26, 39}), std::nullopt, cut(sp::packed{0, 36, 39}),
      sp::table_room{.times = 3, .least = 300});
}

} // namespace

TEST_CASE("cuda_flash graphs: rings replay what inputs, step counter and refreshed batch are when they are launched") {
  for (auto schedule : {sp::schedule::rotate, sp::schedule::pull})
    same_when_replayed(
        3, interleaving::random,
        [&](auto const& comm, counted_pool& memory) {
          return program_of(comm, memory, sp::ring_attention{comm, kernel(), {.mask = sp::causal(), .schedule = schedule}});
        },
        true);
}

TEST_CASE("cuda_flash graphs: ulysses replays what inputs, step counter and refreshed batch are when it is launched") {
  same_when_replayed(
      2, interleaving::lane_last,
      [&](auto const& comm, counted_pool& memory) {
        return program_of(comm, memory, sp::ulysses_attention{comm, kernel(), {.mask = sp::causal()}, {}});
      },
      true);
}

} // namespace test_flash_graphs
