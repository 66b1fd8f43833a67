// libFuzzer target: dense boolean masks: any matrix of flags over any documents, with any limit of slices.
// What is accepted shows exactly the cells that were set.
#include <sp/geometry/dense_mask.hpp>

#include "documents.hpp"

namespace fuzz_target {
static void test_one(std::uint8_t const* data, std::size_t size) {
  input in(data, size);
  std::uint8_t const kind = in.byte();
  index_t const count = kind % 4, limit = kind < 160 ? 64 : in.number();
  sp::documents const q = small_documents(in, count), k = kind & 8 ? q : small_documents(in, kind < 250 ? count : count + 1);
  index_t const rows = q.length() + (kind == 255), keys = k.length();
  std::vector<std::uint8_t> cells(std::size_t(rows * keys + 1));
  bool const structured = kind & 16, wide = kind & 32;
  index_t const lo = index_t(in.byte() % 16) - 8, hi = lo + in.byte() % 12, from = in.byte() % 16;
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < keys; ++j) {
      bool inside = wide;
      for (std::size_t d = 0; d < q.size() && d < k.size(); ++d)
        inside = inside || (i >= q[d].begin && i < q[d].end() && j >= k[d].begin && j < k[d].end());
      bool const shown = structured ? (lo <= j - i && j - i <= hi) || j < from : in.byte() & 1;
      cells[std::size_t(i * keys + j)] = std::uint8_t(inside && shown);
    }
  for (int flips = int(in.below(4)); flips > 0; --flips) cells[std::size_t(in.number() & 0xffff) % cells.size()] ^= 1;

  sp::view<std::uint8_t const, 2> const visible(cells.data(), {rows, keys});
  sp::mask m;
  if (!accepted([&] { m = sp::dense_mask(visible, q, k, limit); })) return;
  std::vector<sp::slice> list;
  require(accepted([&] { list = sp::slices(m, q, k); }), "dense: the mask it made is refused");
  for (index_t i = 0; i < rows; ++i)
    for (index_t j = 0; j < keys; ++j) {
      int n = 0;
      for (sp::slice const& s : list) n += s.sees(i, j);
      require(n == int(visible(i, j)), "dense: a cell is lost, made up or counted twice");
    }
}

} // namespace fuzz_target

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  fuzz_target::test_one(data, size);
  return 0;
}
