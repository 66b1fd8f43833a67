// Step 2: a training step's attention, forward and backward, on a zigzag ring over packed documents of any length.
// Zigzag gives each rank an early and a late piece of every document, so that causal work is the same for all.
#include "common.hpp"

#include <sp/batch.hpp>
#include <sp/cpu.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>

namespace {

constexpr sp::index_t tokens = 1300, q_heads = 6, kv_heads = 2, dim = 32; // grouped queries: three q heads share one kv head

/// What a trainer has before and after the attention of one layer, for all tokens.
struct layer {
  tensor q = random_tensor(tokens, q_heads, dim, 1), k = random_tensor(tokens, kv_heads, dim, 2),
         v = random_tensor(tokens, kv_heads, dim, 3);
  tensor dout = random_tensor(tokens, q_heads, dim, 4); // the gradient that comes back from the layers above
  tensor out{tokens, q_heads, dim}, dq = out, dk{tokens, kv_heads, dim}, dv = dk;
};

void attend(int size, layer& all) {
  sp::packed documents{0, 37, 800, 1300}; // 37, 763 and 500 tokens: nothing needs to divide by anything
  std::vector<std::string> log(std::size_t(size), "");
  sp::threads::run(size, [&](auto ranks) {
    sp::batch batch{documents, sp::zigzag{}, ranks};
    sp::ring_attention attention{ranks, sp::cpu{}, {.mask = sp::causal(), .schedule = sp::schedule::rotate}};

    tensor q = own_rows(batch, all.q), k = own_rows(batch, all.k), v = own_rows(batch, all.v), dout = own_rows(batch, all.dout);
    tensor out{batch.tokens(), q_heads, dim}, dq = out, dk{batch.tokens(), kv_heads, dim}, dv = dk;

    // Keys and values travel around the ring while each rank works on those it has. forward returns what backward needs;
    // backward consumes it, so the two cannot be mixed up.
    auto saved = attention.forward(batch, q.view(), k.view(), v.view(), out.view());
    attention.backward(batch, std::move(saved), q.view(), k.view(), v.view(), out.view(), dout.view(), dq.view(), dk.view(),
                       dv.view());

    // Only to compare: everybody gets all rows, and one rank hands them to the caller.
    for (auto [local, global] : {std::pair{&out, &all.out}, {&dq, &all.dq}, {&dk, &all.dk}, {&dv, &all.dv}}) {
      tensor whole = all_rows(ranks, batch, *local);
      if (ranks.rank() == 0) *global = whole;
    }

    std::vector<std::string> pieces;
    for (sp::run const& r : batch.runs()) pieces.push_back(fmt::format("{}-{}", r.begin, r.last()));
    log[std::size_t(ranks.rank())] =
        fmt::format("rank {} of {} owns {} tokens: {}", ranks.rank(), size, batch.tokens(), fmt::join(pieces, ", "));
  });
  for (std::string const& line : log) fmt::print("{}\n", line);
}

} // namespace

int main() {
  layer by_one, by_four;
  attend(1, by_one);
  attend(4, by_four);
  int wrong = verdict("out", largest_difference(by_one.out, by_four.out));
  wrong += verdict("dq ", largest_difference(by_one.dq, by_four.dq));
  wrong += verdict("dk ", largest_difference(by_one.dk, by_four.dk), 1e-4); // sums over up to 763 queries
  wrong += verdict("dv ", largest_difference(by_one.dv, by_four.dv), 1e-4);
  return wrong;
}
