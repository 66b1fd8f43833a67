// Step 3: bring your own attention kernel. One that computes a block and returns its lse runs in every schedule;
// one that knows whole documents only and has no lse (a plain SDPA) runs under Ulysses.
#include "common.hpp"

#include <sp/batch.hpp>
#include <sp/blockwise.hpp>
#include <sp/cpu.hpp>
#include <sp/ring.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

namespace {

/// One softmax row over the keys [first, first + count) that query i sees; returns the logarithm of the sum of exponentials.
template <class Call>
double softmax_row(Call const& c, sp::index_t i, sp::index_t h) {
  sp::index_t g = c.heads.kv_of(h), value_dim = c.out.extent(2);
  sp::interval seen = c.where.keys_seen_by(i); // who sees whom: causality, windows and documents are all in the block
  double sum = 0;
  for (sp::index_t e = 0; e < value_dim; ++e) c.out(i, h, e) = 0;
  for (sp::index_t j = seen.first; j < seen.first + seen.count; ++j) {
    double score = 0;
    for (sp::index_t d = 0; d < c.q.extent(2); ++d) score += double(c.q(i, h, d)) * double(c.k(j, g, d));
    double p = std::exp(c.scale * score); // small scores only: a real kernel subtracts the maximum first
    sum += p;
    for (sp::index_t e = 0; e < value_dim; ++e) c.out(i, h, e) += float(p * double(c.v(j, g, e)));
  }
  for (sp::index_t e = 0; e < value_dim && sum > 0; ++e) c.out(i, h, e) /= float(sum);
  return std::log(sum); // -inf for a row that sees nothing, which is what sp expects
}

/// A kernel over one block: (rows) queries against (keys) keys.
struct my_kernel {
  using memory_type = sp::host_memory;

  void forward(sp::block_call<float> const& c) const {
    for (sp::index_t h = 0; h < c.heads.q_count; ++h)
      for (sp::index_t i = 0; i < c.where.rows; ++i) c.lse(i, h) = float(softmax_row(c, i, h));
  }
  void backward(sp::block_grad<float> const&) const { throw std::logic_error("this example only runs forward"); }
};

/// A kernel over whole documents that keeps its lse to itself.
struct my_whole_kernel {
  using memory_type = sp::host_memory;

  void forward(sp::whole_call<float> const& c) const {
    for (sp::index_t h = 0; h < c.heads.q_count; ++h)
      for (sp::index_t i = 0; i < c.where.rows; ++i) softmax_row(c, i, h);
  }
};

constexpr sp::index_t tokens = 500, q_heads = 4, kv_heads = 2, dim = 16;

/// Runs the attention that `make` makes on three ranks and returns all outputs in stream order.
template <class Make>
tensor attend(Make make) {
  tensor const q = random_tensor(tokens, q_heads, dim, 1), k = random_tensor(tokens, kv_heads, dim, 2),
               v = random_tensor(tokens, kv_heads, dim, 3);
  tensor all{tokens, q_heads, dim};
  sp::threads::run(3, [&](auto ranks) {
    sp::batch batch{sp::packed{0, 120, 500}, sp::zigzag{}, ranks};
    tensor my_q = own_rows(batch, q), my_k = own_rows(batch, k), my_v = own_rows(batch, v), out = my_q;
    make(ranks).infer(batch, my_q.view(), my_k.view(), my_v.view(), out.view());
    tensor whole = all_rows(ranks, batch, out);
    if (ranks.rank() == 0) all = whole;
  });
  return all;
}

} // namespace

int main() {
  sp::attention_options causal{.mask = sp::causal()};
  tensor theirs = attend([&](auto ranks) { return sp::ring_attention{ranks, sp::cpu{}, causal}; });
  tensor ring = attend([&](auto ranks) { return sp::ring_attention{ranks, sp::blockwise{my_kernel{}}, causal}; });
  tensor ulysses = attend([&](auto ranks) { return sp::ulysses_attention{ranks, my_whole_kernel{}, causal}; });
  // sp::ring_attention{ranks, my_whole_kernel{}} does not compile, and the message says why: without lse, parts cannot be merged.
  return verdict("my block kernel in a ring     ", largest_difference(ring, theirs)) +
         verdict("my whole kernel under Ulysses ", largest_difference(ulysses, theirs));
}
