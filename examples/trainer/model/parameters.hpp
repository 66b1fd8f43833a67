// The model's parameters in one flat vector, so that one all-reduce, one norm and one optimizer serve them all.
// The table names the matrices in it; initialisation depends on the seed and a parameter's place alone.
#pragma once

#include <cmath>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include <sp/core/philox.hpp>

#include "config.hpp"

namespace trainer {

/// A matrix inside the flat vector.
struct parameter {
  std::string name;
  index_t offset = 0, rows = 0, cols = 0;
  double spread = 0, mean = 0; ///< standard deviation and mean at the start

  index_t size() const { return rows * cols; }
  /// Whether weight decay pulls it to 0. What starts around another number, as gains do around 1, has its own reasons.
  bool decays() const { return mean == 0; }
};

/// A layer: what mixes tokens, and SwiGLU, each behind a norm.
template <class Mixer>
struct parameters_of_layer {
  parameter norm1;
  Mixer mixer;
  parameter norm2, gate_up, down;
};

struct attention_parameters {
  parameter qkv, out;
};
using layer_parameters = parameters_of_layer<attention_parameters>;

/// Of a gated delta net, see model/delta_mixer.hpp.
struct delta_parameters {
  parameter in, conv, a_log, dt_bias, norm, out;
};
using delta_layer_parameters = parameters_of_layer<delta_parameters>;

/// Where everything lies. Weights are (inputs, outputs).
class parameter_list {
public:
  std::vector<parameter> const& all() const { return all_; }
  index_t size() const { return all_.empty() ? 0 : all_.back().offset + all_.back().size(); }

protected:
  parameter add(std::string name, index_t rows, index_t cols, double spread, double mean = 0) {
    all_.push_back({std::move(name), size(), rows, cols, spread, mean});
    return all_.back();
  }
  parameter add_gain(std::string name, index_t cols) { return add(std::move(name), 1, cols, 0, 1); }
  /// One of `s.layers` layers, with the widths of `s`; add_mixer(of the projections in, of those out) with the spreads of both.
  template <class Shape, class AddMixer>
  auto add_layer(std::string const& at, Shape const& s, AddMixer&& add_mixer) {
    double narrow = 1 / std::sqrt(double(s.dim)), deep = 1 / std::sqrt(2.0 * double(s.layers));
    return parameters_of_layer<decltype(add_mixer(narrow, narrow))>{
        add_gain(at + "norm1", s.dim), add_mixer(narrow, narrow * deep), add_gain(at + "norm2", s.dim),
        add(at + "gate_up", s.dim, 2 * s.hidden, narrow), add(at + "down", s.hidden, s.dim, deep / std::sqrt(double(s.hidden)))};
  }
  template <class Shape>
  layer_parameters add_attention_layer(std::string const& at, Shape const& s, index_t q_heads, index_t kv_heads) {
    return add_layer(at, s, [&](double in, double out) {
      return attention_parameters{add(at + "qkv", s.dim, (q_heads + 2 * kv_heads) * s.head_dim, in),
                                  add(at + "out", q_heads * s.head_dim, s.dim, out)};
    });
  }
  template <class Shape>
  delta_layer_parameters add_delta_layer(std::string const& at, Shape const& s) {
    delta_shape const& d = s.delta;
    return add_layer(at, s, [&](double in, double out) {
      return delta_parameters{add(at + "in", s.dim, d.mixed_width() + d.value_width() + 2 * d.v_heads, in),
                              add(at + "conv", d.mixed_width(), d.taps, 1 / std::sqrt(double(d.taps))),
                              add(at + "a_log", 1, d.v_heads, 0.7, 1), // a token forgets a hundredth to most of the state
                              add(at + "dt_bias", 1, d.v_heads, 1, -3),
                              add_gain(at + "norm", d.value_dim),
                              add(at + "out", d.value_width(), s.dim, out)};
    });
  }

private:
  std::vector<parameter> all_;
};

/// The parameters of the text model.
class parameter_table : public parameter_list {
public:
  explicit parameter_table(shape const& s) {
    embedding = add("embedding", shape::vocabulary, s.dim, 0.5);
    for (index_t l = 0; l < s.layers; ++l) {
      std::string const at = "layer" + std::to_string(l) + ".";
      if (s.is_delta(l))
        layers.emplace_back(add_delta_layer(at, s));
      else
        layers.emplace_back(add_attention_layer(at, s, s.q_heads, s.kv_heads));
    }
    norm = add_gain("norm", s.dim);
    head = add("head", s.dim, shape::vocabulary, 1 / std::sqrt(double(s.dim)));
  }

  parameter embedding, norm, head;
  std::vector<std::variant<layer_parameters, delta_layer_parameters>> layers;
};

/// Uniform starting values with each parameter's mean and spread; the same in float and double up to rounding.
template <class T>
void set_initial_weights(parameter_list const& table, std::uint64_t seed, std::span<T> flat) {
  for (parameter const& p : table.all())
    for (index_t i = p.offset; i < p.offset + p.size(); ++i) {
      auto n = std::uint64_t(i); // a counter-based generator: the place is all it needs
      auto bits = sp::philox({std::uint32_t(n), std::uint32_t(n >> 32), 0, 0}, {std::uint32_t(seed), std::uint32_t(seed >> 32)});
      flat[std::size_t(i)] = T(p.mean + p.spread * std::sqrt(12.0) * (double(sp::uniform(bits[0])) - 0.5));
    }
}

} // namespace trainer
