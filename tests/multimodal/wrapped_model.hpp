// A small model with two kinds of attention in slots, a step of it on one rank's rows, and what the oracle says over whole streams.
// Tensors follow from numbers of rows, so every rank makes its own; results of all ranks are put together in the order of the streams.
#pragma once

#include <cmath>
#include <vector>

#include <sp/auto_wrap.hpp>

#include "support/oracle.hpp"
#include "support/tensors.hpp"

namespace support {

using sp::index_t;

/// One layer's attention over whole documents of {prefix tokens, other tokens}: what goes in, and what the oracle says.
struct whole_layer {
  std::vector<index_t> counts; ///< tokens of each document, without the prefix
  index_t prefix = 0;
  sp::attention_shape shape{};
  oracle problem;
  std::vector<double> dout;
  oracle::result truth;

  whole_layer(std::vector<index_t> documents, index_t prefix_tokens, sp::attention_shape s, bool causal, unsigned seed)
      : counts(std::move(documents)), prefix(prefix_tokens), shape(s),
        problem(rows(), rows(), s.q_heads, s.kv_heads, s.dim, s.value_dim) {
    std::vector<std::size_t> document_of;
    for (std::size_t d = 0; d < counts.size(); ++d) document_of.insert(document_of.end(), std::size_t(counts[d] + prefix), d);
    auto fill = [g = std::mt19937(seed)](std::vector<double>& x, index_t n) mutable {
      x.resize(std::size_t(n));
      for (double& e : x) e = double(int(g() % 2001) - 1000) / 700;
    };
    fill(problem.q, rows() * s.q_heads * s.dim), fill(problem.k, rows() * s.kv_heads * s.dim);
    fill(problem.v, rows() * s.kv_heads * s.value_dim), fill(dout, rows() * s.q_heads * s.value_dim);
    problem.see(
        [&](index_t i, index_t j) { return document_of[std::size_t(i)] == document_of[std::size_t(j)] && (!causal || j <= i); });
    truth = problem.backward(dout);
  }
  index_t rows() const {
    index_t n = 0;
    for (index_t c : counts) n += c + prefix;
    return n;
  }
  sp::documents docs() const {
    std::vector<sp::document> list;
    index_t at = 0;
    for (index_t c : counts) list.push_back({at, c, c, index_t(list.size())}), at += c;
    return {std::move(list), at};
  }
  /// Which rows of the whole a rank's tensors have: all prefix tokens, then its tokens.
  std::vector<index_t> rows_of(sp::batch const& b) const {
    std::vector<index_t> list, first; // of each document
    index_t at = 0;
    for (index_t c : counts) {
      first.push_back(at);
      for (index_t i = 0; i < prefix; ++i) list.push_back(at + i);
      at += c + prefix;
    }
    for (sp::run const& r : b.runs())
      for (index_t i = 0; i < r.count; ++i) {
        index_t const position = r.begin + i * r.stride;
        std::size_t d = b.docs().at_or_before(position);
        list.push_back(first[d] + prefix + position - b.docs()[d].begin);
      }
    return list;
  }
};

/// A rank's tensors of one layer.
struct layer_share {
  std::vector<index_t> rows; ///< of the whole
  index_t prefix_rows = 0;
  std::vector<double> q, k, v, out, dout, dq, dk, dv;

  /// Upstream gradients of prefix tokens are `share` of the whole one.
  layer_share(whole_layer const& w, sp::batch const& b, double share)
      : rows(w.rows_of(b)), prefix_rows(index_t(w.counts.size()) * w.prefix) {
    take(q, w.problem.q, w.rows()), take(k, w.problem.k, w.rows()), take(v, w.problem.v, w.rows()), take(dout, w.dout, w.rows());
    std::size_t const width = w.dout.size() / std::size_t(w.rows());
    for (std::size_t i = 0; i < std::size_t(prefix_rows) * width; ++i) dout[i] *= share;
    out.assign(dout.size(), NAN), dq.assign(q.size(), NAN), dk.assign(k.size(), NAN), dv.assign(v.size(), NAN);
  }
  sp::forward_operands<double> forward(sp::attention_shape const& s) {
    return {.q = three(q, s.q_heads, s.dim),
            .k = three(k, s.kv_heads, s.dim),
            .v = three(v, s.kv_heads, s.value_dim),
            .out = three(out, s.q_heads, s.value_dim)};
  }
  sp::backward_operands<double> backward(sp::attention_shape const& s) {
    return {.q = three(q, s.q_heads, s.dim),
            .k = three(k, s.kv_heads, s.dim),
            .v = three(v, s.kv_heads, s.value_dim),
            .out = three(out, s.q_heads, s.value_dim),
            .dout = three(dout, s.q_heads, s.value_dim),
            .dq = three(dq, s.q_heads, s.dim),
            .dk = three(dk, s.kv_heads, s.dim),
            .dv = three(dv, s.kv_heads, s.value_dim)};
  }

private:
  sp::view<double, 3> three(std::vector<double>& x, index_t heads, index_t dim) const {
    return {x.data(), {index_t(rows.size()), heads, dim}};
  }
  void take(std::vector<double>& to, std::vector<double> const& from, index_t n) const {
    std::size_t const width = from.size() / std::size_t(n);
    for (index_t r : rows)
      to.insert(to.end(), from.begin() + std::ptrdiff_t(std::size_t(r) * width),
                from.begin() + std::ptrdiff_t((std::size_t(r) + 1) * width));
  }
};

/// What all ranks hold of one tensor, in the order of the whole: rows of prefix tokens are added up, or those of rank 0.
inline std::vector<double> gathered(whole_layer const& w, std::vector<layer_share> const& ranks,
                                    std::vector<double> layer_share::*of, bool add_prefix, std::size_t elements) {
  std::vector<double> all(elements, 0.0);
  std::size_t const width = elements / std::size_t(w.rows());
  for (std::size_t r = 0; r < ranks.size(); ++r)
    for (std::size_t i = 0; i < ranks[r].rows.size(); ++i) {
      if (index_t(i) < ranks[r].prefix_rows && r > 0 && !add_prefix) continue;
      for (std::size_t c = 0; c < width; ++c) all[std::size_t(ranks[r].rows[i]) * width + c] += (ranks[r].*of)[i * width + c];
    }
  return all;
}

} // namespace support
