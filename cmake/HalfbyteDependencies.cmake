# Everything that halfbyte is built from: Debian packages, listed in cmake/packages.txt.

find_package(OpenMP REQUIRED COMPONENTS CXX)

find_path(HALFBYTE_HWY_INCLUDE hwy/highway.h REQUIRED
  DOC "Folder of Highway's headers (Debian: libhwy-dev)")
add_library(halfbyte_hwy INTERFACE)
target_include_directories(halfbyte_hwy SYSTEM INTERFACE ${HALFBYTE_HWY_INCLUDE})

find_package(nlohmann_json REQUIRED)  # halfbyte/io parses safetensors headers with it
if(HALFBYTE_APPS OR HALFBYTE_TESTS)
  find_package(fmt REQUIRED)
  find_package(CLI11 REQUIRED)
endif()
if(HALFBYTE_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()
