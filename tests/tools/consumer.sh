#!/usr/bin/env bash
# consumer.sh KIND: builds and runs a project that uses sp in one of the ways people use C++ libraries, in an empty folder.
# "install" comes first: it installs, checks what is there and moves it, so that a path baked in at install time shows up as a failure.
# Environment: CMAKE, CXX, CLANGXX, PKG_CONFIG, MPIRUN (up to the number of ranks), CONSUMERS (tests/consumers), SOURCE, BUILD, VERSION,
# INSTALLED (where "install" puts it), LEFT_OUT (entry points that the single header cannot hold), ALL (every way builds the whole
# program; else only the way to the headers counts where another entry has built it).
set -euo pipefail
kind=$1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
strict=(-std=c++20 -Wall -Wextra -Wpedantic -Wshadow -Werror)

install_and_move() {
  local first="$work/first"
  "$CMAKE" --install "$BUILD" --prefix "$first" >/dev/null
  rm -rf "$INSTALLED"
  mkdir -p "$(dirname "$INSTALLED")"
  mv "$first" "$INSTALLED"
  if grep -rlF -e "$SOURCE" -e "$BUILD" -e "$first" "$INSTALLED"; then
    echo "consumer: the files above name the place where they were made or installed" >&2
    exit 1
  fi
  diff -r "$SOURCE/include/sp" "$INSTALLED/include/sp" # every header is installed, nothing else
  cmp "$SOURCE/LICENSE" "$INSTALLED/share/sp/LICENSE"
  "$INSTALLED/share/sp/tools/flight.py" --help >/dev/null # what merges flight records runs where it was installed
  local report left_out
  report=$("$SOURCE/cmake/amalgamate.py" --check "$SOURCE/include" "$INSTALLED/share/sp/single/sp.hpp")
  echo "$report"
  left_out=$(sed -nE 's|^left out: sp/(\w+)\.hpp .*|\1|p' <<<"$report" | sort | xargs)
  if [[ $left_out != "$LEFT_OUT" ]]; then
    echo "consumer: the single header leaves out the entry points '$left_out' instead of '$LEFT_OUT'" >&2
    exit 1
  fi
  (cd "$INSTALLED" && find . -type f -not -path './include/*' | sort)
}

# sources: what projects are made of, into the working folder
sources() {
  cp "$CONSUMERS"/*.cpp "$CONSUMERS"/*.hpp "$work"
  case $kind in
  find_package | fetch_content | pkg_config) [[ -n $ALL ]] || cp "$CONSUMERS/rows.cpp" "$work/main.cpp" ;;
  esac
}

# with_cmake FOLDER OPTION...: configures and builds one of the projects
with_cmake() {
  local folder=$1
  shift
  sources
  cp -r "$CONSUMERS/check.cmake" "$CONSUMERS/$folder" "$work"
  "$CMAKE" -S "$work/$folder" -B "$work/build" -G Ninja -DCMAKE_CXX_COMPILER="$CXX" "$@"
  "$CMAKE" --build "$work/build"
}

# refuses ASK TEXT [FOLDER OPTION...]: configuring fails and says TEXT
refuses() {
  local output ask=$1 text=$2
  shift 2
  (($#)) || set -- "$CONSUMERS/without_mpi" "${package[@]}" -DASK="$ask"
  if output=$("$CMAKE" -B "$work/$ask" -S "$@" 2>&1); then
    echo "consumer: asking for '$ask' should have failed" >&2
    exit 1
  fi
  output=$(tr -s ' \n' ' ' <<<"$output") # CMake breaks lines where it likes
  echo "asking for '$ask': ${output#*CMake Error}"
  if [[ $output != *"$text"* ]]; then
    echo "consumer: asking for '$ask' did not say: $text" >&2
    exit 1
  fi
}

package=(-G Ninja -DCMAKE_PREFIX_PATH="$INSTALLED" -DCMAKE_CXX_COMPILER="$CXX")
case $kind in
install)
  install_and_move
  ;;
find_package)
  with_cmake find_package "${package[@]}"
  "$work/build/consumer"
  ;;
components)
  with_cmake components "${package[@]}"
  read -ra mpirun <<<"$MPIRUN"
  "${mpirun[@]}" 3 "$work/build/consumer"
  ;;
cuda | nccl)
  with_cmake "$kind" "${package[@]}"
  "$work/build/consumer"
  ;;
without_mpi)
  for ask in nothing optional; do "$CMAKE" -S "$CONSUMERS/without_mpi" -B "$work/$ask" "${package[@]}" -DASK=$ask; done
  refuses mpi "sp: component mpi needs MPI"
  refuses unknown "sp: component telepathy does not exist in sp"
  refuses newer "compatible with requested version"
  refuses source_tree "sp: SP_MPI is ON, but component mpi needs MPI" "$SOURCE" -G Ninja -DCMAKE_CXX_COMPILER="$CXX" \
    -DSP_BUILD_TESTS=OFF -DSP_BUILD_EXAMPLES=OFF -DSP_BUILD_BENCH=OFF -DCMAKE_DISABLE_FIND_PACKAGE_MPI=ON -DSP_MPI=ON
  ;;
add_subdirectory)
  with_cmake add_subdirectory -DSP_DIR="$SOURCE"
  "$work/build/consumer"
  ;;
fetch_content)
  mkdir "$work/sources"
  mkdir -p "$work/sources/examples"
  cp -r "$SOURCE"/{CMakeLists.txt,LICENSE,cmake,include} "$work/sources"
  cp -r "$SOURCE/examples/tools" "$work/sources/examples"
  with_cmake fetch_content -DSP_DIR="$work/sources" -DSP_MPI="${MPIRUN:+ON}" -DSP_INSTALL=ON
  "$work/build/consumer"
  "$CMAKE" --install "$work/build" --prefix "$work/prefix" >/dev/null # SP_INSTALL: a project may install sp along with itself
  diff <(cd "$INSTALLED" && find . | sort) <(cd "$work/prefix" && find . | sort)
  ;;
pkg_config)
  cd "$work"
  sources
  export PKG_CONFIG_PATH="$INSTALLED/share/pkgconfig"
  read -ra flags <<<"$("$PKG_CONFIG" --cflags sp)"
  echo "flags of sp $("$PKG_CONFIG" --modversion sp): ${flags[*]}"
  [[ $("$PKG_CONFIG" --modversion sp) == "$VERSION" ]]
  [[ ${#flags[@]} == 1 && -z "$("$PKG_CONFIG" --libs sp)" ]] # one include path, nothing to link
  "$CXX" "${strict[@]}" "${flags[@]}" main.cpp -pthread -o consumer
  ./consumer
  ;;
include_path)
  cd "$work"
  cp "$CONSUMERS"/{main.cpp,small_case.hpp} .
  "$CXX" "${strict[@]}" -I "$INSTALLED/include" main.cpp -pthread -o consumer
  ./consumer
  ./consumer planted # the check itself: wrong numbers are noticed
  ;;
single_header)
  cd "$work"
  cp "$CONSUMERS"/{main.cpp,second.cpp,small_case.hpp} "$INSTALLED/share/sp/single/sp.hpp" .
  "$CLANGXX" "${strict[@]}" main.cpp second.cpp -pthread -o consumer
  ./consumer
  [[ -z $ALL ]] || "$CXX" "${strict[@]}" -fsyntax-only main.cpp # templates included; code is generated once, to save time
  ;;
*)
  echo "consumer: no kind $kind" >&2
  exit 2
  ;;
esac
