// Step 1: attention over a sequence that four ranks share, by Ulysses: tokens are exchanged for heads and back.
// Each rank holds a quarter of the tokens; the result is the same as on one rank.
#include "common.hpp"

#include <sp/batch.hpp>
#include <sp/cpu.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

int main() {
  constexpr sp::index_t tokens = 1000, heads = 8, dim = 32;
  tensor const q = random_tensor(tokens, heads, dim, 1), k = random_tensor(tokens, heads, dim, 2),
               v = random_tensor(tokens, heads, dim, 3);

  // Two documents are packed into one stream: tokens 0 to 599 and 600 to 999. They do not see each other.
  sp::packed documents{0, 600, 1000};

  // One call of sp::threads::run is a whole "cluster": this function runs once per rank, each in a thread of its own. With MPI or
  // NCCL, `ranks` would be another communicator and nothing else would change.
  auto attend = [&](int size, tensor& result, std::vector<std::string>& log) {
    sp::threads::run(size, [&](auto ranks) {
      // Who owns which tokens: here each rank one contiguous piece of the stream.
      sp::batch batch{documents, sp::contiguous{}, ranks};

      // What a trainer already has on each rank: q, k and v of its own tokens.
      tensor my_q{batch.tokens(), heads, dim}, my_k{batch.tokens(), heads, dim}, my_v{batch.tokens(), heads, dim},
          my_out{batch.tokens(), heads, dim};
      sp::split(batch, q.view(), my_q.view());
      sp::split(batch, k.view(), my_k.view());
      sp::split(batch, v.view(), my_v.view());

      // The attention object: a communicator, a kernel, and the mask. Then it is called like any attention.
      sp::ulysses_attention attention{ranks, sp::cpu{}, {.mask = sp::causal()}};
      attention.infer(batch, my_q.view(), my_k.view(), my_v.view(), my_out.view()); // (tokens / P, heads, dim)

      sp::heads mine = attention.local_heads(heads, heads);
      log[std::size_t(ranks.rank())] =
          fmt::format("rank {} of {}: owns tokens {} to {}, computed heads {} to {} for all tokens", ranks.rank(), size,
                      batch.runs().front().begin, batch.runs().back().last(), mine.q_begin, mine.q_end() - 1);

      // Only to look at it: everybody's rows in stream order, on every rank.
      tensor all{tokens, heads, dim};
      sp::gather(ranks, batch, std::as_const(my_out).view(), all.view());
      if (ranks.rank() == 0) result = all;
    });
    for (std::string const& line : log) fmt::print("{}\n", line);
  };

  tensor by_one{tokens, heads, dim}, by_four = by_one;
  std::vector<std::string> one(1), four(4);
  attend(1, by_one, one);
  attend(4, by_four, four);
  return verdict("four ranks against one", largest_difference(by_one, by_four));
}
