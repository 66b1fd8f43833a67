// The eight tensors of one rank's attention step, dense, with values by a rule: q, k, v, out, dout, dq, dk, dv.
// The rule is asked in the order of these names and of the memory, so a rule that counts or draws gives the same tensors again.
#pragma once

#include <random>
#include <utility>
#include <vector>

#include <sp/batch.hpp>

namespace support {

enum class operand { q, k, v, out, dout, dq, dk, dv };

/// The rule of tests that do not care: multiples of 1/1000 between -1 and 1.
inline auto uniform_values(unsigned seed) {
  return [g = std::mt19937(seed)](operand, sp::index_t, sp::index_t) mutable { return double(int(g() % 2001) - 1000) / 1000; };
}

template <class T>
struct attention_tensors {
  sp::attention_shape shape;
  std::vector<T> memory[8]; ///< by operand
  sp::view<T, 3> q, k, v, out, dout, dq, dk, dv;

  /// rule(operand, row, head) gives each element; the elements of one row and head are asked for one after the other.
  template <class Rule>
  attention_tensors(sp::index_t q_rows, sp::index_t k_rows, sp::attention_shape s, Rule rule) : shape(s) {
    auto make = [&](operand name, sp::index_t rows, sp::index_t heads, sp::index_t width) {
      auto& values = (*this)[name];
      values.reserve(std::size_t(rows * heads * width));
      for (sp::index_t i = 0; i < rows; ++i)
        for (sp::index_t h = 0; h < heads; ++h)
          for (sp::index_t d = 0; d < width; ++d) values.push_back(T(rule(name, i, h)));
      return sp::view<T, 3>(values.data(), {rows, heads, width});
    };
    q = make(operand::q, q_rows, s.q_heads, s.dim);
    k = make(operand::k, k_rows, s.kv_heads, s.dim);
    v = make(operand::v, k_rows, s.kv_heads, s.value_dim);
    out = make(operand::out, q_rows, s.q_heads, s.value_dim);
    dout = make(operand::dout, q_rows, s.q_heads, s.value_dim);
    dq = make(operand::dq, q_rows, s.q_heads, s.dim);
    dk = make(operand::dk, k_rows, s.kv_heads, s.dim);
    dv = make(operand::dv, k_rows, s.kv_heads, s.value_dim);
  }
  attention_tensors(sp::index_t q_rows, sp::index_t k_rows, sp::attention_shape s)
      : attention_tensors(q_rows, k_rows, s, uniform_values(1)) {}
  /// Every rank of a batch has other values.
  attention_tensors(sp::batch const& b, sp::attention_shape s, unsigned seed = 1)
      : attention_tensors(b.tokens(), b.tokens(), s, uniform_values(seed + 100u * unsigned(b.part()))) {}
  attention_tensors(attention_tensors const&) = delete;

  std::vector<T>& operator[](operand name) { return memory[std::size_t(name)]; }
  std::vector<T> const& operator[](operand name) const { return memory[std::size_t(name)]; }

  template <class Object, class Prepared, class Queue = sp::inline_queue, class... Extras>
  auto forward(Object const& o, Prepared const& p, sp::context<Queue> const& ctx, Extras const&... extras) {
    return o.forward(p, ctx, q, k, v, out, extras...);
  }
  template <class Object, class Prepared, class Queue = sp::inline_queue, class Saved, class... Extras>
  void backward(Object const& o, Prepared const& p, sp::context<Queue> const& ctx, Saved&& s, Extras const&... extras) {
    o.backward(p, ctx, std::forward<Saved>(s), q, k, v, out, dout, dq, dk, dv, extras...);
  }
  template <class Object, class Prepared, class Queue = sp::inline_queue>
  void both(Object const& o, Prepared const& p, sp::context<Queue> const& ctx) {
    backward(o, p, ctx, forward(o, p, ctx));
  }
  /// out, dq, dk, dv one behind the other.
  std::vector<T> results() const {
    std::vector<T> r;
    for (operand name : {operand::out, operand::dq, operand::dk, operand::dv})
      r.insert(r.end(), (*this)[name].begin(), (*this)[name].end());
    return r;
  }
};

} // namespace support
