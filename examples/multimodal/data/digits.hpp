// Pictures of single digits, 8 x 8 pixels from 0 to 16: drawn here, or handwriting from the csv of scikit-learn's digits.
// Drawn ones depend on the seed and their number alone; both come as two sets, and training never sees the second.
#pragma once

#include <array>
#include <stdexcept>
#include <string>
#include <vector>

#include "multimodal/config.hpp"

namespace multimodal {

inline constexpr index_t digit_side = 8;

/// Pixels row by row, 0 (paper) to 16 (ink).
struct digit_picture {
  std::array<float, digit_side * digit_side> pixels{};
  int label = 0;
};

struct digit_sets {
  std::vector<digit_picture> train, held_back;
  std::string source; ///< "drawn here", or the file
};

/// Why pictures cannot be used; main() prints it and exits with code 2.
struct bad_pictures : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// One digit: strokes that are shifted, slanted, stretched, thick or thin, with noise.
digit_picture draw_digit(int label, std::uint64_t seed, std::uint64_t number);

/// `each` drawn pictures of every digit to learn from, and a fifth as many held back.
digit_sets drawn_digits(std::uint64_t seed, int each = 300);

/// Lines of 64 pixels from 0 to 16 and the label, separated by commas; a first line without numbers is a heading. Every fifth picture
/// of a digit is held back. Throws bad_pictures, which names the line.
digit_sets read_digits(std::filesystem::path const& csv);

} // namespace multimodal
