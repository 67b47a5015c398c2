# How every target of halfbyte is compiled, and the four functions that make one:
# halfbyte_layer, halfbyte_cpu_kernels, halfbyte_cuda_kernels (HalfbyteCuda.cmake), halfbyte_test.

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)

# The numerics contract: no contraction, no reassociation (docs/numerics.md).
add_library(halfbyte_flags INTERFACE)
target_compile_options(halfbyte_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off -fno-fast-math -Wall -Wextra -Wpedantic -Wconversion
    -Wno-sign-conversion>
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wshadow=local>)
target_include_directories(halfbyte_flags INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/include)
if(HALFBYTE_SANITIZE)
  target_compile_options(halfbyte_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${HALFBYTE_SANITIZE} -fno-omit-frame-pointer
      -fno-sanitize-recover=all -g1>)
  target_link_options(halfbyte_flags INTERFACE -fsanitize=${HALFBYTE_SANITIZE})
endif()

# One layer of the tree, one static library. Those up to ops/ together make libhalfbyte.so; one that
# is PROGRAM_ONLY stays out of it.
#   halfbyte_layer(NAME [PROGRAM_ONLY] SOURCES a.cpp .. DEPENDS base formats ..)
function(halfbyte_layer name)
  cmake_parse_arguments(ARG "PROGRAM_ONLY" "" "SOURCES;DEPENDS" ${ARGN})
  if(ARG_SOURCES)
    add_library(halfbyte_${name} STATIC ${ARG_SOURCES})
    set(scope PUBLIC)
    if(NOT ARG_PROGRAM_ONLY)
      set_property(GLOBAL APPEND PROPERTY HALFBYTE_OBJECTS $<TARGET_OBJECTS:halfbyte_${name}>)
    endif()
  else()
    add_library(halfbyte_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_link_libraries(halfbyte_${name} ${scope} halfbyte_flags)
  foreach(dependency IN LISTS ARG_DEPENDS)
    target_link_libraries(halfbyte_${name} ${scope} halfbyte_${dependency})
  endforeach()
endfunction()

# The CPU levels this processor family has. Each *_cpu.cpp is compiled once a level, into a
# namespace of the level's name (HALFBYTE_LEVEL); base/cpu_level.h chooses at run time.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(HALFBYTE_CPU_LEVELS v3 v4)
  set(HALFBYTE_CPU_FLAGS_v3 -march=x86-64-v3)
  set(HALFBYTE_CPU_FLAGS_v4 -march=x86-64-v4)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set(HALFBYTE_CPU_LEVELS neon)
  set(HALFBYTE_CPU_FLAGS_neon -march=armv8-a+crypto)
else()
  set(HALFBYTE_CPU_LEVELS "")
endif()
foreach(level IN LISTS HALFBYTE_CPU_LEVELS)
  string(TOUPPER ${level} upper)
  target_compile_definitions(halfbyte_flags INTERFACE HALFBYTE_HAS_CPU_${upper}=1)
endforeach()

#   halfbyte_cpu_kernels(layer [PROGRAM_ONLY] a_cpu.cpp ..)
function(halfbyte_cpu_kernels layer)
  cmake_parse_arguments(ARG "PROGRAM_ONLY" "" "" ${ARGN})
  set(lists HALFBYTE_LEVEL_OBJECTS)
  if(NOT ARG_PROGRAM_ONLY)
    list(APPEND lists HALFBYTE_OBJECTS)
  endif()
  foreach(level IN LISTS HALFBYTE_CPU_LEVELS)
    add_library(halfbyte_${layer}_${level} OBJECT ${ARG_UNPARSED_ARGUMENTS})
    target_compile_definitions(halfbyte_${layer}_${level} PRIVATE HALFBYTE_LEVEL=${level}
      HWY_COMPILE_ONLY_STATIC HWY_DISABLE_PCLMUL_AES)
    target_compile_options(halfbyte_${layer}_${level} PRIVATE ${HALFBYTE_CPU_FLAGS_${level}})
    target_link_libraries(halfbyte_${layer}_${level} PRIVATE halfbyte_flags halfbyte_simd)
    target_sources(halfbyte_${layer} PRIVATE $<TARGET_OBJECTS:halfbyte_${layer}_${level}>)
    foreach(list IN LISTS lists)
      set_property(GLOBAL APPEND PROPERTY ${list} $<TARGET_OBJECTS:halfbyte_${layer}_${level}>)
    endforeach()
  endforeach()
endfunction()

# A GoogleTest program; every case becomes a ctest case, skipped ones are counted by ctest.
#   halfbyte_test(NAME SOURCES a_test.cpp .. DEPENDS layer .. [LIBRARIES target ..] [TIMEOUT s])
function(halfbyte_test name)
  if(NOT HALFBYTE_TESTS)
    return()
  endif()
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPENDS;LIBRARIES" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE halfbyte_flags GTest::gtest_main ${ARG_LIBRARIES})
  foreach(dependency IN LISTS ARG_DEPENDS)
    target_link_libraries(${name} PRIVATE halfbyte_${dependency})
  endforeach()
  target_compile_definitions(${name} PRIVATE HALFBYTE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  gtest_discover_tests(${name} TEST_PREFIX "${name}." DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()
