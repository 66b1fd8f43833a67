// The parameters of the whole model in one flat vector: tower, projection, decoder.
// Names begin with "vision", "projection" or "text", so that a report can speak of each.
#pragma once

#include <string>
#include <vector>

#include "multimodal/config.hpp"
#include "trainer/model/parameters.hpp"

namespace multimodal {

using trainer::layer_parameters;
using trainer::parameter;

/// A merger: a norm of patches, then SwiGLU from a square of them to a row of the text.
struct merger_parameters {
  parameter norm, gate_up, down;
};

class parameter_table : public trainer::parameter_list {
public:
  explicit parameter_table(model_shape const& m) {
    tower_shape const& t = m.tower;
    patch = add("vision.patch", t.pixels_of_patch(), t.dim, 1 / std::sqrt(double(t.pixels_of_patch())));
    if (t.prefix) prefix = add("vision.class", t.prefix, t.dim, 0.5);
    if (!t.rotary) {
      rows = add("vision.rows", t.longest, t.dim, 0.3);
      columns = add("vision.columns", t.longest, t.dim, 0.3);
    }
    for (index_t l = 0; l < t.layers; ++l)
      vision.push_back(add_attention_layer("vision.layer" + std::to_string(l) + ".", t, t.heads, t.heads));
    projection = add_merger("projection.", m);
    for (index_t l = 0; l < m.deepstack; ++l)
      deepstack.push_back(add_merger("projection.deepstack" + std::to_string(l) + ".", m));
    learned.cols = m.dim; // also of none
    if (m.learned_rows) learned = add("projection.learned", m.learned_rows, m.dim, 0.5);
    embedding = add("text.embedding", m.vocabulary, m.dim, 0.5);
    for (index_t l = 0; l < m.layers; ++l)
      text.push_back(add_attention_layer("text.layer" + std::to_string(l) + ".", m, m.q_heads, m.kv_heads));
    norm = add_gain("text.norm", m.dim);
    head = add("text.head", m.dim, m.vocabulary, 1 / std::sqrt(double(m.dim)));
  }

  parameter patch, prefix, rows, columns, learned, embedding, norm, head;
  std::vector<layer_parameters> vision, text;
  merger_parameters projection;
  std::vector<merger_parameters> deepstack; ///< by tower layer

private:
  merger_parameters add_merger(std::string const& at, model_shape const& m) {
    index_t const inputs = m.grain() * m.tower.dim, hidden = m.hidden;
    return {add_gain(at + "norm", m.tower.dim), add(at + "gate_up", inputs, 2 * hidden, 1 / std::sqrt(double(inputs))),
            add(at + "down", hidden, m.dim, 1 / std::sqrt(double(hidden)))};
  }
};

} // namespace multimodal
