# Components: parts of sp that need a library of somebody else. Each is one file, cmake/sp-component-<name>.cmake, which creates sp::<name>;
# here it is used from the source tree. A new component is its file and its name in sp_components.
set(sp_components cuda cudnn mpi nccl)

if(PROJECT_IS_TOP_LEVEL)
  set(sp_component_default AUTO)
else()
  set(sp_component_default OFF) # a project that vendors sp does not pay for a search that it did not ask for
endif()

# sp_component(<name>): creates sp::<name> as the option SP_<NAME> says: AUTO (if its dependencies are found), ON (or stop), OFF.
macro(sp_component name)
  string(TOUPPER "${name}" sp_component_upper)
  set(SP_${sp_component_upper} ${sp_component_default} CACHE STRING "Component sp::${name}: AUTO, ON or OFF")
  set_property(CACHE SP_${sp_component_upper} PROPERTY STRINGS AUTO ON OFF)
  if(SP_${sp_component_upper})
    set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON) # the project around this one links them as well
    include("${PROJECT_SOURCE_DIR}/cmake/sp-component-${name}.cmake")
    unset(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL)
    if(sp_${name}_FOUND)
      set_target_properties(sp::${name} PROPERTIES IMPORTED_GLOBAL ON)
      message(STATUS "sp: component ${name}: found")
    elseif(SP_${sp_component_upper} STREQUAL "AUTO")
      message(STATUS "sp: component ${name}: not found, left out (it ${sp_${name}_NOT_FOUND_MESSAGE})")
    else()
      message(FATAL_ERROR "sp: SP_${sp_component_upper} is ON, but component ${name} ${sp_${name}_NOT_FOUND_MESSAGE}, "
        "or leave it out with -DSP_${sp_component_upper}=OFF")
    endif()
  endif()
endmacro()

foreach(name IN LISTS sp_components)
  sp_component(${name})
endforeach()
