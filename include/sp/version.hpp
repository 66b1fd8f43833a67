// The version of sp, for programs and for the build: CMake, the packages and the changelog take it from here.
// Numbers follow semantic versioning, see docs/versioning.md; nothing else is in this header.
#pragma once

#define SP_VERSION_MAJOR 0
#define SP_VERSION_MINOR 1
#define SP_VERSION_PATCH 0
/// One number for `#if SP_VERSION >= 10203`, which is version 1.2.3.
#define SP_VERSION (SP_VERSION_MAJOR * 10000 + SP_VERSION_MINOR * 100 + SP_VERSION_PATCH)

namespace sp {

/// The version these headers have: major * 10000 + minor * 100 + patch.
inline constexpr int version = SP_VERSION;

} // namespace sp
