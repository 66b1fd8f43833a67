// The task: sums and orders of handwritten digits, asked in a few characters. Pictures hold one digit, or two side by side.
// A step of texts follows from the seed and its number alone, so every rank has the same without a word.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "multimodal/data/digits.hpp"

namespace multimodal {

/// Characters of the texts by token id; three marks stand for pictures.
inline constexpr char const* characters = "0123456789+=s.";
inline constexpr index_t equals_token = 11, picture_token = 14, begin_token = 15, end_token = 16, vocabulary = 17;

/// A picture of a text: digits side by side, and what it shows.
struct picture {
  std::vector<digit_picture const*> digits;

  index_t width() const { return index_t(digits.size()) * digit_side; }
  float pixel(index_t row, index_t column) const {
    return digits[std::size_t(column / digit_side)]->pixels[std::size_t(row * digit_side + column % digit_side)];
  }
};

/// One text. In `question` a '#' stands for the next picture: "#+#=", "s##=" (the digits in order), or "3+8=" without any.
struct sample {
  std::string question, answer; ///< the answer ends with '.'
  std::vector<picture> pictures;
};

/// Token ids of a text as a splice wants them before the tower's rows are in: placeholders, marks.
std::vector<index_t> tokens_of(sample const& s, splice_kind splice, model_shape const& m);

/// Patches of a picture, and rows of it in the text.
index_t patch_rows(tower_shape const& t);
index_t patch_columns(picture const& p, tower_shape const& t);
index_t visual_rows(picture const& p, model_shape const& m);

/// Hands out texts, sums and orders: of pictures, and every fourth of a step without any.
class questioner {
public:
  questioner(std::vector<digit_picture> const& digits, std::uint64_t seed);
  /// The texts of one step.
  std::vector<sample> next(int count);
  /// The same without any pictures.
  std::vector<sample> next_without_pictures(int count);
  /// Questions about pictures alone.
  std::vector<sample> next_with_pictures(int count);

private:
  digit_picture const& any_digit() { return (*digits_)[std::size_t(below(int(digits_->size())))]; }
  int below(int n) { return int(random_() % std::uint64_t(n)); }
  sample any(bool shown) { return below(2) ? sum(shown) : order(shown); }
  sample sum(bool shown);
  sample order(bool shown);

  std::vector<digit_picture> const* digits_;
  std::mt19937_64 random_;
};

} // namespace multimodal
