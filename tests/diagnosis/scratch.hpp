// A folder of its own for the files of one test, and what other programs make of them.
// The folder goes when the test ends; settings go back to nothing on.
#pragma once

#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

#include <sp/diagnosis.hpp>

namespace diagnosis_tests {

class scratch {
public:
  scratch() {
    static int count = 0;
    folder_ =
        std::filesystem::temp_directory_path() / ("sp_diagnosis." + std::to_string(::getpid()) + "." + std::to_string(count++));
    std::filesystem::create_directories(folder_);
  }
  scratch(scratch const&) = delete;
  ~scratch() {
    sp::diagnosis::configure({});
    std::filesystem::remove_all(folder_);
  }
  std::string operator/(std::string const& name) const { return (folder_ / name).string(); }
  std::size_t files() const {
    return std::size_t(std::distance(std::filesystem::directory_iterator(folder_), std::filesystem::directory_iterator()));
  }

private:
  std::filesystem::path folder_;
};

inline std::string text_of(std::string const& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

inline bool has(std::string const& text, std::string const& part) { return text.find(part) != std::string::npos; }

inline int count(std::string const& text, std::string const& part) {
  int n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

struct outcome {
  int code = -1;
  std::string text;
};

/// What a command prints, errors included, and its exit code.
inline outcome run(std::string const& command) {
  outcome o;
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  REQUIRE(pipe);
  std::array<char, 4096> part{};
  while (std::size_t const n = std::fread(part.data(), 1, part.size(), pipe)) o.text.append(part.data(), n);
  int const status = ::pclose(pipe);
  o.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return o;
}

inline std::string tool() { return "python3 '" SP_TEST_DIR "/../examples/tools/flight.py' "; }

} // namespace diagnosis_tests
