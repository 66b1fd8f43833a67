# How this project compiles its own programs. Nothing here reaches a consumer of sp::sp.
include(CheckCXXCompilerFlag)
include(CheckLinkerFlag)

if(PROJECT_IS_TOP_LEVEL AND NOT DEFINED CMAKE_CXX_COMPILER_LAUNCHER)
  find_program(SP_CCACHE ccache)
  if(SP_CCACHE)
    set(CMAKE_CXX_COMPILER_LAUNCHER "${SP_CCACHE}")
  endif()
endif()

set(CMAKE_CXX_EXTENSIONS OFF)
if(SP_NATIVE)
  check_cxx_compiler_flag(-march=native SP_HAS_MARCH_NATIVE)
endif()

sp_need_threads()
sp_need_fmt()

add_library(sp_program_settings INTERFACE)
target_link_libraries(sp_program_settings INTERFACE sp::sp fmt::fmt Threads::Threads)
target_compile_options(sp_program_settings INTERFACE -Wall -Wextra -Wpedantic -Wshadow
  $<$<BOOL:${SP_HAS_MARCH_NATIVE}>:-march=native>)
# g++ looks for unused memory each time its memory has doubled from 128 MiB: a tenth of the time of a large source, to save little.
target_compile_options(sp_program_settings INTERFACE $<$<COMPILE_LANG_AND_ID:CXX,GNU>:--param=ggc-min-heapsize=524288>)

# The tests are some 60 programs, each linked in a quarter of the time.
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  check_linker_flag(CXX -fuse-ld=lld SP_HAS_LLD)
endif()
if(SP_HAS_LLD)
  set(sp_quick_linker -fuse-ld=lld)
endif()
target_link_options(sp_program_settings INTERFACE "$<$<AND:$<CONFIG:Debug>,$<LINK_LANGUAGE:CXX>>:${sp_quick_linker}>")

# For programs that compute a lot: the preset of the tests does not optimise, because most of them take longer to compile than to run.
set(sp_optimised "$<$<CONFIG:Debug>:-O1>")
# For programs of much code that computes for seconds only: by g++ compiled a third sooner than with -O1, and half as slow again. clang has
# no such level: its -Og is -O1.
set(sp_lightly_optimised "$<$<AND:$<CONFIG:Debug>,$<CXX_COMPILER_ID:GNU>>:-Og>")

# sp_program(<target> <source>...): an executable with the library, fmt, threads and our warnings.
function(sp_program target)
  add_executable(${target} ${ARGN})
  target_link_libraries(${target} PRIVATE sp_program_settings)
endfunction()

# sp_uses_threads(<variable> <source>...): does one of the sources start ranks that are threads?
function(sp_uses_threads variable)
  set(${variable} FALSE PARENT_SCOPE)
  foreach(source IN LISTS ARGN)
    file(STRINGS "${source}" hits REGEX "threads" LIMIT_COUNT 1)
    if(hits)
      set(${variable} TRUE PARENT_SCOPE)
    endif()
  endforeach()
endfunction()
