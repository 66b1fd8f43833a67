# What tests, examples and benches need: found first, downloaded only with SP_FETCH_DEPENDENCIES=ON.
# The library itself needs nothing.
include(FetchContent)

# sp_dependency(<package> <imported target> <Debian package> <git repository> <git tag>)
macro(sp_dependency package target debian repository tag)
  if(NOT TARGET ${target})
    find_package(${package} QUIET)
  endif()
  if(NOT TARGET ${target} AND SP_FETCH_DEPENDENCIES)
    message(STATUS "sp: downloading ${package} ${tag}")
    FetchContent_Declare(${package} GIT_REPOSITORY ${repository} GIT_TAG ${tag} GIT_SHALLOW ON SYSTEM)
    FetchContent_MakeAvailable(${package})
    if(NOT TARGET ${target})
      message(FATAL_ERROR "sp: ${package} was downloaded, but it does not define ${target}")
    endif()
  elseif(NOT TARGET ${target})
    message(FATAL_ERROR "sp: ${package} is not installed. Install it (Debian: ${debian}), let CMake download it "
      "with -DSP_FETCH_DEPENDENCIES=ON, or switch off what needs it: SP_BUILD_TESTS, SP_BUILD_EXAMPLES, SP_BUILD_BENCH")
  endif()
endmacro()

macro(sp_need_threads)
  set(THREADS_PREFER_PTHREAD_FLAG ON)
  find_package(Threads REQUIRED)
endmacro()

macro(sp_need_fmt)
  sp_dependency(fmt fmt::fmt libfmt-dev https://github.com/fmtlib/fmt.git 9.1.0)
endmacro()

macro(sp_need_doctest)
  set(DOCTEST_WITH_TESTS OFF)
  sp_dependency(doctest doctest::doctest doctest-dev https://github.com/doctest/doctest.git v2.4.9)
endmacro()

macro(sp_need_benchmark)
  set(BENCHMARK_ENABLE_TESTING OFF)
  set(BENCHMARK_ENABLE_INSTALL OFF)
  sp_dependency(benchmark benchmark::benchmark libbenchmark-dev https://github.com/google/benchmark.git v1.7.1)
endmacro()

macro(sp_need_eigen)
  sp_dependency(Eigen3 Eigen3::Eigen libeigen3-dev https://gitlab.com/libeigen/eigen.git 3.4.0)
endmacro()

macro(sp_need_json)
  set(JSON_BuildTests OFF)
  sp_dependency(nlohmann_json nlohmann_json::nlohmann_json nlohmann-json3-dev https://github.com/nlohmann/json.git v3.11.2)
endmacro()

macro(sp_need_cli11)
  sp_dependency(CLI11 CLI11::CLI11 libcli11-dev https://github.com/CLIUtils/CLI11.git v2.1.2)
endmacro()
