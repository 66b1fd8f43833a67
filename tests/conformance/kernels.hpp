// Kernels as a user would bring them: whole documents without lse (with and without state), and one block with its lse.
// Plain loops in double, written apart from the library's reference kernel.
#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include <sp/backend/concepts.hpp>

namespace conformance {

using sp::index_t;

/// Probabilities of one row: exp(score - largest) of what is seen, their sum and the largest score.
struct softmax_row {
  std::vector<double> p;
  double sum = 0, largest = -std::numeric_limits<double>::infinity();

  template <class Call>
  softmax_row(Call const& c, index_t i, index_t h) : p(std::size_t(c.where.keys), 0.0) {
    for (index_t j = 0; j < c.where.keys; ++j)
      if (c.where.sees(i, j)) largest = std::fmax(largest, score(c, i, j, h));
    for (index_t j = 0; j < c.where.keys; ++j)
      if (c.where.sees(i, j)) sum += p[std::size_t(j)] = std::exp(score(c, i, j, h) - largest);
  }
  template <class Call>
  static double score(Call const& c, index_t i, index_t j, index_t h) {
    double s = 0;
    for (index_t d = 0; d < c.q.extent(2); ++d) s += c.q(i, h, d) * c.k(j, c.heads.kv_of(h), d);
    return s * c.scale;
  }
};

/// dq, dk, dv of one row are added to, with probabilities p and the row's delta.
template <class Grad>
void row_gradient(Grad const& g, std::vector<double> const& p, double delta, index_t i, index_t h) {
  index_t kv = g.heads.kv_of(h);
  for (index_t j = 0; j < g.where.keys; ++j) {
    if (!g.where.sees(i, j)) continue;
    double dp = 0;
    for (index_t e = 0; e < g.v.extent(2); ++e) dp += g.dout(i, h, e) * g.v(j, kv, e);
    double ds = p[std::size_t(j)] * (dp - delta) * g.scale;
    for (index_t d = 0; d < g.q.extent(2); ++d) {
      if (g.dq.data) g.dq(i, h, d) += ds * g.k(j, kv, d);
      if (g.dk.data) g.dk(j, kv, d) += ds * g.q(i, h, d);
    }
    for (index_t e = 0; e < g.v.extent(2) && g.dv.data; ++e) g.dv(j, kv, e) += p[std::size_t(j)] * g.dout(i, h, e);
  }
}
template <class Grad>
double row_delta(Grad const& g, index_t i, index_t h) {
  double s = 0;
  for (index_t e = 0; e < g.out.extent(2); ++e) s += g.out(i, h, e) * g.dout(i, h, e);
  return s;
}
inline void clear(sp::view<double, 3> const& v) {
  for (index_t i = 0; i < v.extent(0); ++i)
    for (index_t h = 0; h < v.extent(1); ++h)
      for (index_t d = 0; d < v.extent(2); ++d) v(i, h, d) = 0;
}

/// Plain scaled-dot-product attention of whole documents: no lse, no state.
struct plain_sdpa {
  using memory_type = sp::host_memory;
  void forward(sp::whole_call<double> const& c) const {
    for (index_t h = 0; h < c.heads.q_count; ++h)
      for (index_t i = 0; i < c.where.rows; ++i) {
        softmax_row row(c, i, h);
        for (index_t e = 0; e < c.v.extent(2); ++e) {
          c.out(i, h, e) = 0;
          for (index_t j = 0; j < c.where.keys; ++j)
            if (row.p[std::size_t(j)] != 0) c.out(i, h, e) += row.p[std::size_t(j)] * c.v(j, c.heads.kv_of(h), e) / row.sum;
        }
      }
  }
  void backward(sp::whole_grad<double> const& g) const {
    clear(g.dq), clear(g.dk), clear(g.dv);
    for (index_t h = 0; h < g.heads.q_count; ++h)
      for (index_t i = 0; i < g.where.rows; ++i) {
        softmax_row row(g, i, h);
        if (row.sum == 0) continue;
        for (double& p : row.p) p /= row.sum;
        row_gradient(g, row.p, row_delta(g, i, h), i, h);
      }
  }
};

/// The same with a state of its own between forward and backward, and masks it does not know.
struct stateful_sdpa {
  using memory_type = sp::host_memory;
  struct state {
    std::vector<std::vector<double>> probabilities; ///< by (head, row)
    index_t first_head = -1, document = -1;
  };
  bool accepts(sp::block const& b) const { return b.is_full() || (b.hi == 0 && b.lo <= b.min_distance()); }
  state forward(sp::whole_call<double> const& c) const {
    plain_sdpa{}.forward(c);
    state s{{}, c.heads.q_begin, c.where.document};
    for (index_t h = 0; h < c.heads.q_count; ++h)
      for (index_t i = 0; i < c.where.rows; ++i) {
        softmax_row row(c, i, h);
        for (double& p : row.p) p /= row.sum > 0 ? row.sum : 1;
        s.probabilities.push_back(row.p);
      }
    return s;
  }
  void backward(sp::whole_grad<double> const& g, state const& s) const {
    if (s.first_head != g.heads.q_begin || s.document != g.where.document) throw std::logic_error("this is another call's state");
    clear(g.dq), clear(g.dk), clear(g.dv);
    for (index_t h = 0; h < g.heads.q_count; ++h)
      for (index_t i = 0; i < g.where.rows; ++i)
        row_gradient(g, s.probabilities[std::size_t(h * g.where.rows + i)], row_delta(g, i, h), i, h);
  }
};

/// One block with its lse; with Picky it takes full and square causal blocks only.
template <bool Picky>
struct block_sdpa {
  using memory_type = sp::host_memory;
  bool accepts(sp::block const& b) const {
    return !Picky || b.is_full() ||
           (b.rows == b.keys && b.q_stride == b.k_stride && b.q_pos + b.hi == b.k_pos && b.lo <= b.min_distance());
  }
  void forward(sp::block_call<double> const& c) const {
    for (index_t h = 0; h < c.heads.q_count; ++h)
      for (index_t i = 0; i < c.where.rows; ++i) {
        softmax_row row(c, i, h);
        c.lse(i, h) = row.sum > 0 ? row.largest + std::log(row.sum) : -std::numeric_limits<double>::infinity();
        for (index_t e = 0; e < c.v.extent(2); ++e) {
          c.out(i, h, e) = 0;
          for (index_t j = 0; j < c.where.keys; ++j)
            if (row.p[std::size_t(j)] != 0) c.out(i, h, e) += row.p[std::size_t(j)] * c.v(j, c.heads.kv_of(h), e) / row.sum;
        }
      }
  }
  void backward(sp::block_grad<double> const& g) const {
    for (index_t h = 0; h < g.heads.q_count; ++h)
      for (index_t i = 0; i < g.where.rows; ++i) {
        softmax_row row(g, i, h);
        if (row.sum == 0) continue;
        for (double& p : row.p) p *= std::exp(row.largest - g.lse(i, h)); // by the global lse
        row_gradient(g, row.p, g.delta(i, h), i, h);
      }
  }
};

} // namespace conformance
