// Ranges for profilers: a tool, linked into this program as NVTX lets one be, sees the names that traces use, pushed and popped in pairs.
// needs: context cuda
// with all: takes long to compile
#include <sp/reference.hpp>
#include <sp/ring.hpp>

#include "cuda/ranks.hpp"
#include "support/failure.hpp"

namespace test_profiler_ranges {

using sp::device_memory;

namespace {

/// What the tool has seen on this thread, while it looks.
struct seen_ranges {
  bool looks = false;
  int depth = 0;
  std::vector<std::string> names; ///< with two spaces for each range around them
};
thread_local seen_ranges seen;

nvtxDomainHandle_t create(char const* name) {
  static char mine = 0;
  return std::string_view(name) == "sp" ? reinterpret_cast<nvtxDomainHandle_t>(&mine) : nullptr;
}
int push(nvtxDomainHandle_t, nvtxEventAttributes_t const* what) {
  if (seen.looks) seen.names.push_back(std::string(2 * std::size_t(seen.depth), ' ') + what->message.ascii);
  return seen.depth++;
}
int pop(nvtxDomainHandle_t) { return --seen.depth; }

int attach(NvtxGetExportTableFunc_t get) {
  auto const* const table = static_cast<NvtxExportTableCallbacks const*>(get(NVTX_ETID_CALLBACKS));
  NvtxFunctionTable calls = nullptr;
  unsigned size = 0;
  if (!table->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &calls, &size)) return 0;
  *calls[NVTX_CBID_CORE2_DomainCreateA] = reinterpret_cast<NvtxFunctionPointer>(create);
  *calls[NVTX_CBID_CORE2_DomainRangePushEx] = reinterpret_cast<NvtxFunctionPointer>(push);
  *calls[NVTX_CBID_CORE2_DomainRangePop] = reinterpret_cast<NvtxFunctionPointer>(pop);
  return 1;
}
[[maybe_unused]] bool const linked = (InitializeInjectionNvtx2_fnptr = attach, true); // before the first range

} // namespace

TEST_CASE("cuda ranges: calls and exchanges have the names of traces, nested as they are, also where a call fails") {
  cuda_tests::rank_streams const streams(2, 3, support::interleaving::random);
  sp::cuda_local::run(
      2,
      [&](sp::cuda_local const& comm) {
        cuda_tests::counted_pool memory(comm.queue());
        sp::context const ctx(comm.queue(), memory, memory);
        sp::batch const b(sp::packed{0, 4, 9}, sp::contiguous{}, comm);
        sp::ring_attention const ring{comm, sp::basic_reference<device_memory>{}, {.schedule = sp::schedule::rotate}};
        support::pool_tensor<double, 3, cuda_tests::counted_pool> x(memory, {b.tokens(), 1, 2},
                                                                    std::vector<double>(std::size_t(2 * b.tokens()), 1)),
            y(memory, {b.tokens(), 1, 2}), z(memory, {b.tokens(), 1, 2});
        auto const p = ring.prepare(b, ctx);
        seen = {};
        seen.looks = true;
        auto const e = support::failure_of([&] { return ring.forward(p, ctx, *x, *x, *x, y->rows(0, 1)); });
        CHECK(e.problem != "");
        CHECK((seen.depth == 0 && seen.names == std::vector<std::string>{"ring_attention.forward"}));
        seen.names.clear();
        auto saved = ring.forward(p, ctx, *x, *x, *x, *y);
        CHECK(seen.names == std::vector<std::string>{"ring_attention.forward", "  ring.forward.keys post"});
        seen.names.clear();
        support::pool_tensor<double, 3, cuda_tests::counted_pool> dk(memory, {b.tokens(), 1, 2}), dv(memory, {b.tokens(), 1, 2});
        ring.backward(p, ctx, std::move(saved), *x, *x, *x, *y, *x, *z, *dk, *dv);
        CHECK(seen.names ==
              std::vector<std::string>{"ring_attention.backward", "  ring.backward.keys post", "  ring.backward.gradients post"});
        CHECK(seen.depth == 0);
        seen = {};
      },
      conformance::patient(), [&](int rank) { return streams(rank); });
}

} // namespace test_profiler_ranges
