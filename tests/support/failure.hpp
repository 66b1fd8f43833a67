// What a call complains about: tests of errors compare the code and the numbers in the sentence.
// failure_of() fails the test when the call does not throw.
#pragma once

#include <doctest/doctest.h>

#include <string>

#include <sp/core/error.hpp>

namespace support {

/// The failure of a call that must throw sp::error.
template <class F>
sp::error_info failure_of(F&& call) {
  try {
    static_cast<void>(call());
  } catch (sp::error const& e) {
    return e.info();
  }
  FAIL("no sp::error was thrown");
  return {};
}

/// True if the failure has this code and its problem contains every one of the texts; a remedy must be there, too.
template <class... Text>
bool says(sp::error_info const& e, sp::errc code, Text... texts) {
  bool ok = e.code == code && !e.problem.empty() && !e.remedy.empty() && ((e.problem.find(texts) != std::string::npos) && ...);
  if (!ok) MESSAGE("the error was " << sp::name(e.code) << ": " << e.problem << ". " << e.remedy);
  return ok;
}

} // namespace support
