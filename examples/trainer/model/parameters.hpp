// The model's parameters in one flat vector, so that one all-reduce, one norm and one optimizer serve them all.
// The table names the matrices in it; initialisation depends on the seed and a parameter's place alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <string>
#include <vector>

#include <sp/core/philox.hpp>

#include "config.hpp"

namespace trainer {

/// A matrix inside the flat vector.
struct parameter {
  std::string name;
  index_t offset = 0, rows = 0, cols = 0;
  double spread = 0; ///< standard deviation at the start; 0: a gain, which starts at 1

  index_t size() const { return rows * cols; }
  bool is_gain() const { return spread == 0; }
};

struct layer_parameters {
  parameter norm1, qkv, out, norm2, gate_up, down;
};

/// Where everything lies. Weights are (inputs, outputs).
class parameter_list {
public:
  std::vector<parameter> const& all() const { return all_; }
  index_t size() const { return all_.empty() ? 0 : all_.back().offset + all_.back().size(); }

protected:
  parameter add(std::string name, index_t rows, index_t cols, double spread) {
    all_.push_back({std::move(name), size(), rows, cols, spread});
    return all_.back();
  }
  /// Layer l of `s.layers`, with the widths of `s`.
  template <class Shape>
  layer_parameters add_layer(std::string const& at, Shape const& s, index_t q_heads, index_t kv_heads) {
    double narrow = 1 / std::sqrt(double(s.dim)), deep = 1 / std::sqrt(2.0 * double(s.layers));
    return {add(at + "norm1", 1, s.dim, 0),
            add(at + "qkv", s.dim, (q_heads + 2 * kv_heads) * s.head_dim, narrow),
            add(at + "out", q_heads * s.head_dim, s.dim, narrow * deep),
            add(at + "norm2", 1, s.dim, 0),
            add(at + "gate_up", s.dim, 2 * s.hidden, narrow),
            add(at + "down", s.hidden, s.dim, deep / std::sqrt(double(s.hidden)))};
  }

private:
  std::vector<parameter> all_;
};

/// The parameters of the text model.
class parameter_table : public parameter_list {
public:
  explicit parameter_table(shape const& s) {
    embedding = add("embedding", shape::vocabulary, s.dim, 0.5);
    for (index_t l = 0; l < s.layers; ++l)
      layers.push_back(add_layer("layer" + std::to_string(l) + ".", s, s.q_heads, s.kv_heads));
    norm = add("norm", 1, s.dim, 0);
    head = add("head", s.dim, shape::vocabulary, 1 / std::sqrt(double(s.dim)));
  }

  parameter embedding, norm, head;
  std::vector<layer_parameters> layers;
};

/// Uniform starting values with each matrix's spread; the same in float and double up to rounding.
template <class T>
void set_initial_weights(parameter_list const& table, std::uint64_t seed, std::span<T> flat) {
  std::fill(flat.begin(), flat.end(), T(1));
  for (parameter const& p : table.all())
    for (index_t i = p.offset; i < p.offset + p.size() && !p.is_gain(); ++i) {
      auto n = std::uint64_t(i); // a counter-based generator: the place is all it needs
      auto bits = sp::philox({std::uint32_t(n), std::uint32_t(n >> 32), 0, 0}, {std::uint32_t(seed), std::uint32_t(seed >> 32)});
      flat[std::size_t(i)] = T(p.spread * std::sqrt(12.0) * (double(sp::uniform(bits[0])) - 0.5));
    }
}

} // namespace trainer
