# Boost.PFR, which sp/auto_wrap_pfr.hpp includes: headers alone, of Boost 1.75 or later. -DSP_PFR_INCLUDE_DIR=<folder of boost/pfr.hpp> says
# where, and any unpacked package will do. Without it what needs that header is left out, and its entry skipped with the reason.
find_path(SP_PFR_INCLUDE_DIR boost/pfr.hpp)
if(SP_PFR_INCLUDE_DIR)
  add_library(sp_pfr INTERFACE)
  target_include_directories(sp_pfr SYSTEM INTERFACE "${SP_PFR_INCLUDE_DIR}")
  set(sp_test_libraries_multimodal_auto_wrap_pfr sp_pfr) # a program of its own: other tests use another Boost
  set(sp_test_missing_pfr "")
else()
  set(sp_test_missing_pfr "no Boost.PFR was found when this tree was configured (say where with -DSP_PFR_INCLUDE_DIR=<folder of boost/pfr.hpp>)")
endif()
