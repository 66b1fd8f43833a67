// libFuzzer target: the description of a batch: documents, sharding, scope, nesting, part, parts and shapes; and shardings that lie.
// What is accepted is a partition: every token has one owner, rows count up, and padded batches are equal.
#include <sp/batch.hpp>

#include "documents.hpp"

namespace fuzz_target {
namespace {

/// A caller's own sharding, with runs that nobody has checked.
struct liar {
  sp::scope over = sp::scope::document;
  std::vector<sp::run> list;
  std::vector<sp::run> runs(index_t, index_t part, index_t parts) const {
    std::vector<sp::run> mine;
    for (std::size_t i = 0; i < list.size(); ++i)
      if (index_t(i) % parts == part) mine.push_back(list[i]);
    return mine;
  }
};

void require_partition(sp::batch const& b, bool small) {
  require_documents(b.docs());
  index_t rows = 0, rooms = 0;
  for (sp::document const& d : b.docs()) rooms += d.room;
  for (int p = 0; p < b.parts(); ++p) {
    require(sp::count_of(b.layout().runs(p)) == b.layout().tokens(p), "batch: rows are miscounted");
    rows += b.layout().tokens(p);
  }
  require(rows == rooms, "batch: tokens are lost or doubled");
  require(b.tokens() == b.layout().tokens(b.part()), "batch: this is not the part");
  if (!small) return;
  std::vector<int> owners(std::size_t(b.docs().length()));
  for (int p = 0; p < b.parts(); ++p) {
    index_t row = 0;
    for (sp::run const& r : b.layout().runs(p))
      for (index_t i = 0; i < r.count; ++i, ++row) {
        ++owners[std::size_t(r.at(i))];
        require(b.layout().owner_of(r.at(i)) == sp::owner{p, row}, "batch: owner_of says something else");
      }
  }
  for (sp::document const& d : b.docs())
    for (index_t i = d.begin; i < d.begin + d.room; ++i) require(owners[std::size_t(i)] == 1, "batch: not one owner");
}

template <class Sharding>
void make(sp::documents const& docs, Sharding const& how, int part, int parts, sp::shapes local, bool small) {
  accepted([&] {
    sp::batch const b(docs, how, part, parts, sp::batch_options{.local = local});
    require(b.part() == part && b.parts() == parts, "batch: other ranks");
    require_partition(b, small);
    if (local != sp::shapes::ragged)
      for (int p = 1; p < parts; ++p) require(b.layout().tokens(p) == b.layout().tokens(0), "batch: unequal parts");
    if (!small) return;
    std::vector<index_t> at(std::size_t(b.tokens()));
    sp::positions(b, sp::view<index_t, 1>(at.data(), {b.tokens()}), sp::positions_in::stream);
    std::vector<index_t> const offsets = sp::local_cu_seqlens(b);
    for (std::size_t i = 1; i < offsets.size(); ++i) require(offsets[i] >= offsets[i - 1], "batch: local offsets decrease");
    require(offsets.empty() || offsets.back() <= b.tokens(), "batch: local offsets leave the rows");
  });
}

} // namespace

static void test_one(std::uint8_t const* data, std::size_t size) {
  input in(data, size);
  std::uint8_t const kind = in.byte();
  bool const small = kind < 200;
  index_t const count = kind % 6;
  sp::documents docs;
  if (!accepted([&] { docs = small ? small_documents(in, count) : any_documents(in, count); })) return;
  std::uint8_t const shape = in.byte();
  // at most 1000 parts: a list for each is what the caller asks for
  int const parts = shape < 240 ? int(in.below(16)) + 1 : int(sp::max(-9, sp::min(in.number(), 1000)));
  int const part = shape < 230 ? int(in.below(16)) % sp::max(parts, 1) : int(in.number());
  auto const local = sp::shapes(shape % 3);
  sp::scope const over = shape & 8 ? sp::scope::stream : sp::scope::document;
  auto with = [&](auto outer) {
    if (shape & 16)
      make(docs, sp::nested{outer, in.number(), in.byte() < 200 ? in.below(4) + 1 : in.number()}, part, parts, local, small);
    else
      make(docs, outer, part, parts, local, small);
  };
  switch (in.below(4)) {
  case 0:
    with(sp::contiguous{over});
    break;
  case 1:
    with(sp::zigzag{over});
    break;
  case 2:
    with(sp::striped{over});
    break;
  default: {
    liar how{over, {}};
    for (index_t n = in.below(12); n > 0; --n) how.list.push_back({in.number(), in.number(), in.byte() < 128 ? 1 : in.number()});
    make(docs, how, part, parts, local, small);
  }
  }
}

} // namespace fuzz_target

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  fuzz_target::test_one(data, size);
  return 0;
}
