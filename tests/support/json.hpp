// Reads JSON that fixtures are recorded in: numbers, texts, lists and objects, and nothing that they have no use for.
// What cannot be read, and what is asked for and not there, throws std::runtime_error with the place or the name.
#pragma once

#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace support {

class json {
public:
  /// The file tests/fixtures/<name>.
  static json fixture(std::string const& name) {
    std::ifstream file(std::string(SP_TEST_DIR) + "/fixtures/" + name);
    if (!file) throw std::runtime_error("no fixture " + name);
    std::stringstream text;
    text << file.rdbuf();
    return parse(text.str());
  }
  static json parse(std::string const& text) {
    reader r{text};
    json value = r.value();
    r.skip_space();
    if (r.at != text.size()) r.refuse("something behind the end");
    return value;
  }

  json const& operator[](std::string const& name) const {
    auto const found = members_.find(name);
    if (found == members_.end()) throw std::runtime_error("no member " + name);
    return found->second;
  }
  bool has(std::string const& name) const { return members_.count(name) > 0; }
  std::vector<json> const& items() const { return items_; }
  std::int64_t number() const { return number_; } ///< of a whole number
  std::string const& text() const { return text_; }
  /// A list of whole numbers.
  std::vector<std::int64_t> numbers() const {
    std::vector<std::int64_t> out;
    for (json const& x : items_) out.push_back(x.number_);
    return out;
  }
  /// A list of numbers, whole or not.
  std::vector<double> reals() const {
    std::vector<double> out;
    for (json const& x : items_) out.push_back(x.real_);
    return out;
  }
  /// A list of lists of whole numbers.
  std::vector<std::vector<std::int64_t>> rows() const {
    std::vector<std::vector<std::int64_t>> out;
    for (json const& x : items_) out.push_back(x.numbers());
    return out;
  }

private:
  struct reader {
    std::string const& text;
    std::size_t at = 0;

    [[noreturn]] void refuse(char const* what) const {
      throw std::runtime_error(std::string(what) + " at character " + std::to_string(at));
    }
    void skip_space() {
      while (at < text.size() && std::string(" \t\r\n").find(text[at]) != std::string::npos) ++at;
    }
    bool take(char c) {
      skip_space();
      if (at >= text.size() || text[at] != c) return false;
      ++at;
      return true;
    }
    std::string quoted() {
      if (!take('"')) refuse("no text");
      auto const end = text.find('"', at);
      if (end == std::string::npos || text.substr(at, end - at).find('\\') != std::string::npos) refuse("no plain text");
      std::string out = text.substr(at, end - at);
      at = end + 1;
      return out;
    }
    json value() {
      json out;
      skip_space();
      if (take('{')) {
        for (bool more = !take('}'); more; more = !take('}')) {
          if (!out.members_.empty() && !take(',')) refuse("no comma");
          std::string const name = quoted();
          if (!take(':')) refuse("no colon");
          out.members_[name] = value();
        }
      } else if (take('[')) {
        for (bool more = !take(']'); more; more = !take(']')) {
          if (!out.items_.empty() && !take(',')) refuse("no comma");
          out.items_.push_back(value());
        }
      } else if (at < text.size() && text[at] == '"') {
        out.text_ = quoted();
      } else {
        auto const end = text.find_first_not_of("+-.e0123456789", at);
        if (end == at || end == std::string::npos) refuse("no number");
        std::string const digits = text.substr(at, end - at);
        out.real_ = std::stod(digits);
        if (digits.find_first_of(".e") == std::string::npos) out.number_ = std::stoll(digits);
        at = end;
      }
      return out;
    }
  };

  std::int64_t number_ = 0;
  double real_ = 0;
  std::string text_;
  std::vector<json> items_;
  std::map<std::string, json> members_;
};

} // namespace support
