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
class parameter_table {
public:
  explicit parameter_table(shape const& s) {
    double narrow = 1 / std::sqrt(double(s.dim)), deep = 1 / std::sqrt(2.0 * double(s.layers));
    embedding = add("embedding", shape::vocabulary, s.dim, 0.5);
    for (index_t l = 0; l < s.layers; ++l) {
      std::string at = "layer" + std::to_string(l) + ".";
      layers.push_back({add(at + "norm1", 1, s.dim, 0), add(at + "qkv", s.dim, s.qkv_width(), narrow),
                        add(at + "out", s.q_heads * s.head_dim, s.dim, narrow * deep), add(at + "norm2", 1, s.dim, 0),
                        add(at + "gate_up", s.dim, 2 * s.hidden, narrow),
                        add(at + "down", s.hidden, s.dim, deep / std::sqrt(double(s.hidden)))});
    }
    norm = add("norm", 1, s.dim, 0);
    head = add("head", s.dim, shape::vocabulary, narrow);
  }

  parameter embedding, norm, head;
  std::vector<layer_parameters> layers;

  std::vector<parameter> const& all() const { return all_; }
  index_t size() const { return all_.back().offset + all_.back().size(); }

private:
  parameter add(std::string name, index_t rows, index_t cols, double spread) {
    index_t offset = all_.empty() ? 0 : size();
    all_.push_back({std::move(name), offset, rows, cols, spread});
    return all_.back();
  }
  std::vector<parameter> all_;
};

/// Uniform starting values with each matrix's spread; the same in float and double up to rounding.
template <class T>
void set_initial_weights(parameter_table const& table, std::uint64_t seed, std::span<T> flat) {
  std::fill(flat.begin(), flat.end(), T(1));
  for (parameter const& p : table.all())
    for (index_t i = p.offset; i < p.offset + p.size() && !p.is_gain(); ++i) {
      auto n = std::uint64_t(i); // a counter-based generator: the place is all it needs
      auto bits = sp::philox({std::uint32_t(n), std::uint32_t(n >> 32), 0, 0}, {std::uint32_t(seed), std::uint32_t(seed >> 32)});
      flat[std::size_t(i)] = T(p.spread * std::sqrt(12.0) * (double(sp::uniform(bits[0])) - 0.5));
    }
}

} // namespace trainer
