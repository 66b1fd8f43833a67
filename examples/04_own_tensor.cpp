// Step 4: bring your own tensor type. Specialise sp::tensor_traits once, and attention takes your tensors as they are.
// Any strides will do: this type stores heads first, (heads, tokens, dim), and nothing is transposed or copied for it.
#include "common.hpp"

#include <sp/batch.hpp>
#include <sp/cpu.hpp>
#include <sp/gather_tokens.hpp>
#include <sp/threads.hpp>
#include <sp/ulysses.hpp>

namespace mine {

/// A trainer's tensor: heads first, as many frameworks keep it for attention.
class heads_first {
public:
  heads_first(sp::index_t tokens, sp::index_t heads, sp::index_t dim)
      : tokens_(tokens), heads_(heads), dim_(dim), values_(std::size_t(tokens * heads * dim)) {}
  float& at(sp::index_t token, sp::index_t head, sp::index_t d) {
    return values_[std::size_t((head * tokens_ + token) * dim_ + d)];
  }
  sp::index_t tokens() const { return tokens_; }
  sp::index_t heads() const { return heads_; }
  sp::index_t dim() const { return dim_; }
  float* data() const { return const_cast<float*>(values_.data()); }

private:
  sp::index_t tokens_, heads_, dim_;
  std::vector<float> values_;
};

} // namespace mine

/// All that sp needs to know: attention counts dimensions as (tokens, heads, dim), strides in elements.
template <>
struct sp::tensor_traits<mine::heads_first> {
  using element_type = float;
  using memory_type = sp::host_memory;
  static float* data(mine::heads_first const& t) { return t.data(); }
  static int rank(mine::heads_first const&) { return 3; }
  static sp::index_t extent(mine::heads_first const& t, int d) { return d == 0 ? t.tokens() : d == 1 ? t.heads() : t.dim(); }
  static sp::index_t stride(mine::heads_first const& t, int d) { return d == 0 ? t.dim() : d == 1 ? t.tokens() * t.dim() : 1; }
};

namespace {

constexpr sp::index_t tokens = 400, heads = 5, dim = 16; // five heads on three ranks: 1, 2 and 2

/// Attention with tensors of type Tensor on every rank; returns all outputs in stream order.
template <class Tensor>
tensor attend(tensor const& q, tensor const& k, tensor const& v) {
  tensor all{tokens, heads, dim};
  sp::threads::run(3, [&](auto ranks) {
    sp::batch batch{sp::packed{0, tokens}, sp::contiguous{}, ranks};
    Tensor my_q(batch.tokens(), heads, dim), my_k = my_q, my_v = my_q, my_out = my_q;
    sp::split(batch, q.view(), sp::as_tensor<3>(my_q));
    sp::split(batch, k.view(), sp::as_tensor<3>(my_k));
    sp::split(batch, v.view(), sp::as_tensor<3>(my_v));

    sp::ulysses_attention attention{ranks, sp::cpu{}, {.mask = sp::causal()}};
    attention.infer(batch, my_q, my_k, my_v, my_out); // tensors of your type, no views in sight

    tensor whole = all;
    sp::view<float const, 3> out = sp::as_tensor<3>(my_out);
    sp::gather(ranks, batch, out, whole.view());
    if (ranks.rank() == 0) all = whole;
  });
  return all;
}

} // namespace

int main() {
  tensor const q = random_tensor(tokens, heads, dim, 1), k = random_tensor(tokens, heads, dim, 2),
               v = random_tensor(tokens, heads, dim, 3);
  tensor heads_first = attend<mine::heads_first>(q, k, v);

  sp::batch one{sp::packed{0, tokens}, sp::contiguous{}, sp::solo{}}; // the same on one rank, with plain views
  tensor expected{tokens, heads, dim};
  sp::ring_attention{sp::solo{}, sp::cpu{}, {.mask = sp::causal()}}.infer(one, q.view(), k.view(), v.view(), expected.view());

  fmt::print("tensors of type mine::heads_first, strides ({}, {}, 1) on rank 0\n", dim, sp::cut(tokens, 1, 3) * dim);
  return verdict("own tensors on three ranks", largest_difference(heads_first, expected));
}
