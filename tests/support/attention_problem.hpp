// An attention problem over whole streams of documents, in double: its inputs, what the oracle says, and the ranks' shares of both.
// Ranks get their rows by sp::split and give them back by sp::gather, as a trainer does.
#pragma once

#include <limits>
#include <random>
#include <utility>
#include <vector>

#include <sp/gather_tokens.hpp>

#include "support/attention_tensors.hpp"
#include "support/oracle.hpp"
#include "support/oracle_documents.hpp"
#include "support/tensors.hpp"

namespace support {

/// The whole stream, row-major: (tokens, heads, width).
struct attention_results {
  std::vector<double> out, dq, dk, dv;
};

struct attention_problem {
  sp::documents q_docs, k_docs;
  sp::attention_shape shape;
  sp::mask mask;
  std::vector<double> q, k, v, dout; ///< row-major, normally distributed

  attention_problem(sp::documents queries, sp::documents keys, sp::attention_shape s, sp::mask rule, unsigned seed)
      : q_docs(std::move(queries)), k_docs(std::move(keys)), shape(s), mask(std::move(rule)) {
    std::mt19937 g(seed);
    std::normal_distribution<double> normal;
    auto fill = [&](std::vector<double>& x, sp::index_t n) {
      for (sp::index_t i = 0; i < n; ++i) x.push_back(normal(g));
    };
    fill(q, q_docs.length() * s.q_heads * s.dim);
    fill(k, k_docs.length() * s.kv_heads * s.dim);
    fill(v, k_docs.length() * s.kv_heads * s.value_dim);
    fill(dout, q_docs.length() * s.q_heads * s.value_dim);
  }

  /// The oracle with these inputs. sees(document, offset of the query in it, offset of the key) defines the mask.
  template <class Sees>
  oracle oracle_of(Sees const& sees) const {
    oracle o(q_docs.length(), k_docs.length(), shape.q_heads, shape.kv_heads, shape.dim, shape.value_dim);
    o.q = q, o.k = k, o.v = v;
    place_tokens(o, q_docs, k_docs, mask.at);
    o.see([&](sp::index_t i, sp::index_t j) {
      for (std::size_t d = 0; d < q_docs.size(); ++d) {
        sp::document const &a = q_docs[d], &b = k_docs[d];
        if (a.begin <= i && i < a.end() && b.begin <= j && j < b.end()) return sees(d, i - a.begin, j - b.begin);
      }
      return false;
    });
    return o;
  }
};

/// One rank's tensors. Slack rows of the inputs get `slack`, out starts as NaN, gradients as `before`.
struct rank_tensors : attention_tensors<double> {
  static constexpr double nan = std::numeric_limits<double>::quiet_NaN();

  rank_tensors(attention_problem const& p, sp::batch const& qb, sp::batch const& kb, double slack, double before = nan)
      : attention_tensors(qb.tokens(), kb.tokens(), p.shape, [before](operand name, sp::index_t, sp::index_t) {
          return name == operand::dq || name == operand::dk || name == operand::dv ? before : nan;
        }) {
    auto give = [slack](sp::batch const& b, std::vector<double> const& global, sp::view<double, 3> const& to) {
      sp::split(b, tensor<3>(global, {b.source().length(), to.extent(1), to.extent(2)}), to, slack);
    };
    give(qb, p.q, q), give(kb, p.k, k), give(kb, p.v, v), give(qb, p.dout, dout);
  }
};

/// out, dq, dk and dv of all ranks in stream order. Positions in no document hold 0 in out and `before` in gradients.
template <class Comm>
attention_results gathered(Comm const& comm, sp::batch const& qb, sp::batch const& kb, rank_tensors const& x, double before = 0) {
  auto whole = [&](sp::batch const& b, sp::view<double const, 3> const& mine, double elsewhere) {
    std::vector<double> all(std::size_t(b.source().length() * mine.extent(1) * mine.extent(2)));
    sp::gather(comm, b, mine, tensor<3>(all, {b.source().length(), mine.extent(1), mine.extent(2)}), elsewhere);
    return all;
  };
  return {whole(qb, x.out, 0), whole(qb, x.dq, before), whole(kb, x.dk, before), whole(kb, x.dv, before)};
}

} // namespace support
