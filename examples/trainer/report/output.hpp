// The folder that a report is written to, tried before hours of training end at a file that cannot be written.
// What is there already keeps its contents.
#pragma once

#include <filesystem>
#include <fstream>
#include <stdexcept>

namespace trainer {

/// Why a run cannot be started or its report not be written; exit code 2.
struct unusable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Makes the folder and tries both files. Throws unusable.
inline void claim_output(std::filesystem::path const& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw unusable("cannot make the folder '" + folder.string() + "': " + error.message());
  for (char const* name : {"train.json", "report.html"}) {
    std::filesystem::path file = folder / name;
    bool was_there = std::filesystem::exists(file, error);
    if (!std::ofstream(file, std::ios::app)) throw unusable("cannot write '" + file.string() + "'");
    if (!was_there) std::filesystem::remove(file, error);
  }
}

} // namespace trainer
