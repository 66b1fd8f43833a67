// What stands around the snippets of docs/extending.md: one attention problem, and the comparison with the scalar reference on one rank.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

#include <sp/gather_tokens.hpp>

// TOP

namespace {

constexpr sp::index_t q_heads = 4, kv_heads = 2, dim = 6;
sp::packed const documents{0, 17, 17, 18, 45};

/// out, dq, dk, dv of all tokens, one behind the other, by any object over any ranks.
template <class Ranks, class Sharding, class Attention>
std::vector<float> attend(Ranks const& ranks, Sharding how, Attention const& attention) {
  sp::batch batch{documents, how, ranks};
  sp::index_t n = batch.tokens(), all = documents.length();
  unsigned seed = 0;
  auto local = [&](std::vector<float>& memory, sp::index_t h) {
    std::mt19937 g{++seed};
    std::vector<float> global(all * h * dim);
    for (float& x : global) x = std::normal_distribution<float>()(g);
    memory.resize(n * h * dim);
    sp::view<float, 3> v(memory.data(), {n, h, dim});
    sp::split(batch, sp::view<float, 3>(global.data(), {all, h, dim}), v);
    return v;
  };
  std::vector<float> m[8];
  auto q = local(m[0], q_heads), k = local(m[1], kv_heads), v = local(m[2], kv_heads), out = local(m[3], q_heads),
       dout = local(m[4], q_heads);
  auto dq = local(m[5], q_heads), dk = local(m[6], kv_heads), dv = local(m[7], kv_heads);
  auto saved = attention.forward(batch, q, k, v, out);
  attention.backward(batch, std::move(saved), q, k, v, out, dout, dq, dk, dv);
  std::vector<float> result;
  for (auto const& t : {out, dq, dk, dv}) {
    std::vector<float> whole(all * t.extent(1) * dim);
    sp::gather(ranks, batch, sp::view<float const, 3>(t), sp::view<float, 3>(whole.data(), {all, t.extent(1), dim}));
    result.insert(result.end(), whole.begin(), whole.end());
  }
  return result;
}

/// Ends the program unless `found` is what the scalar reference computes on one rank.
void compare(char const* what, std::vector<float> const& found) {
  static std::vector<float> const expected =
      attend(sp::solo{}, sp::contiguous{}, sp::ring_attention{sp::solo{}, sp::reference{}, {.mask = sp::causal()}});
  float worst = found.size() == expected.size() ? 0.F : INFINITY;
  for (std::size_t i = 0; i < found.size(); ++i) worst = std::fmax(worst, std::fabs(found[i] - expected[i]));
  if (worst < 1e-5F) return;
  std::printf("%s: largest difference %g\n", what, double(worst));
  std::exit(1);
}

} // namespace

int main() {
  // SNIPPETS
}
