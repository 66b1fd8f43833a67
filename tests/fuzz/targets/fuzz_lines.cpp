// libFuzzer target: lines of the differential corpus.
// Any text is either a recipe, which prints a line that parses to itself, or std::invalid_argument with a sentence.
#include "../recipe.hpp"
#include "input.hpp"

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  std::string const text(reinterpret_cast<char const*>(data), size);
  try {
    fuzz::recipe const r = fuzz::parse(text);
    fuzz_target::require(fuzz::objection(r).empty(), "lines: a recipe was accepted that is no case");
    std::string const line = fuzz::line_of(r);
    fuzz_target::require(fuzz::parse(line) == r && fuzz::line_of(fuzz::parse(line)) == line, "lines: it does not print itself");
  } catch (std::invalid_argument const& e) {
    fuzz_target::require(std::string_view(e.what()).substr(0, 10) == "case line:", "lines: an error without a sentence");
  }
  return 0;
}
