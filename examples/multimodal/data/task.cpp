// Makes texts about digits.
// Answers follow from the labels of the digits that were drawn or read, whether they are shown as pictures or as characters.
#include "multimodal/data/task.hpp"

#include <algorithm>

namespace multimodal {

index_t patch_rows(tower_shape const& t) { return digit_side / t.pixels; }
index_t patch_columns(picture const& p, tower_shape const& t) { return p.width() / t.pixels; }
index_t visual_rows(picture const& p, model_shape const& m) {
  return patch_rows(m.tower) * patch_columns(p, m.tower) / m.grain();
}

std::vector<index_t> tokens_of(sample const& s, splice_kind splice, model_shape const& m) {
  std::vector<index_t> tokens;
  std::size_t next = 0;
  for (char c : s.question + s.answer) {
    if (c != '#') {
      tokens.push_back(index_t(std::string(characters).find(c)));
      continue;
    }
    index_t const rows = splice == splice_kind::llava ? 1 : visual_rows(s.pictures[next], m);
    ++next;
    if (splice == splice_kind::qwen) tokens.push_back(begin_token);
    tokens.insert(tokens.end(), std::size_t(rows), picture_token);
    if (splice == splice_kind::qwen) tokens.push_back(end_token);
  }
  return tokens;
}

questioner::questioner(std::vector<digit_picture> const& digits, std::uint64_t seed) : digits_(&digits), random_(seed) {}

std::vector<sample> questioner::next(int count) {
  std::vector<sample> all;
  for (int i = 0; i < count; ++i) all.push_back(any(i % 4 != 3));
  return all;
}
std::vector<sample> questioner::next_without_pictures(int count) {
  std::vector<sample> all;
  for (int i = 0; i < count; ++i) all.push_back(any(false));
  return all;
}
std::vector<sample> questioner::next_with_pictures(int count) {
  std::vector<sample> all;
  for (int i = 0; i < count; ++i) all.push_back(any(true));
  return all;
}

sample questioner::sum(bool shown) {
  digit_picture const &a = any_digit(), &b = any_digit();
  std::string const result = std::to_string(a.label + b.label) + ".";
  if (shown) return {"#+#=", result, {{{&a}}, {{&b}}}};
  return {std::to_string(a.label) + "+" + std::to_string(b.label) + "=", result, {}};
}

sample questioner::order(bool shown) {
  digit_picture const* drawn[] = {&any_digit(), &any_digit(), &any_digit()};
  std::string labels;
  for (digit_picture const* d : drawn) labels += std::to_string(d->label);
  std::string sorted = labels;
  std::sort(sorted.begin(), sorted.end());
  sorted += ".";
  if (!shown) return {"s" + labels + "=", sorted, {}};
  switch (below(3)) { // how the three are divided among pictures
  case 0:
    return {"s##=", sorted, {{{drawn[0], drawn[1]}}, {{drawn[2]}}}};
  case 1:
    return {"s##=", sorted, {{{drawn[0]}}, {{drawn[1], drawn[2]}}}};
  default:
    return {"s###=", sorted, {{{drawn[0]}}, {{drawn[1]}}, {{drawn[2]}}}};
  }
}

} // namespace multimodal
