# What `cmake --install` gives, and what other projects get from it:
#
#   find_package(halfbyte COMPONENTS cpu formats cuda), pkg-config halfbyte
#
#   halfbyte::cpu      libhalfbyte.so: the C ABI and the C++ functions of the rooms
#   halfbyte::cuda     the same library, where it was built with CUDA
#   halfbyte::formats  headers alone: formats, layouts and rounding, on host and device
#
# Paths are relative to the package: the installed tree can be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# A wheel (scikit-build-core) takes the library and the operators' kernels, next to the Python
# modules. They are loaded by path, the library first, so that the other finds it by its soname.
if(SKBUILD)
  install(FILES $<TARGET_FILE:halfbyte> DESTINATION halfbyte RENAME libhalfbyte.so
          COMPONENT python)
  install(FILES $<TARGET_FILE:halfbyte_torch> DESTINATION halfbyte COMPONENT python)
  return()
endif()

add_library(halfbyte_headers INTERFACE)
set_target_properties(halfbyte_headers PROPERTIES EXPORT_NAME formats)
target_compile_features(halfbyte_headers INTERFACE cxx_std_20)
# The numerics contract: GCC contracts a * b + c across inline functions by default.
target_compile_options(halfbyte_headers INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>
  $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-ffp-contract=off>)
add_library(halfbyte_cuda_component INTERFACE)
set_target_properties(halfbyte_cuda_component PROPERTIES EXPORT_NAME cuda)
target_link_libraries(halfbyte_cuda_component INTERFACE halfbyte)

set_target_properties(halfbyte PROPERTIES EXPORT_NAME cpu)
foreach(target IN ITEMS halfbyte halfbyte_headers)
  target_include_directories(${target} INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
endforeach()
add_library(halfbyte::cpu ALIAS halfbyte)
add_library(halfbyte::formats ALIAS halfbyte_headers)

set(components halfbyte halfbyte_headers)
if(HALFBYTE_BUILD_CUDA)
  add_library(halfbyte::cuda ALIAS halfbyte_cuda_component)
  list(APPEND components halfbyte_cuda_component)
endif()
install(TARGETS ${components} EXPORT halfbyteTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET halfbyte_program)
  file(RELATIVE_PATH to_library ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  set_target_properties(halfbyte_program PROPERTIES INSTALL_RPATH "$ORIGIN/${to_library}")
  install(TARGETS halfbyte_program RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

# The public headers. Kernels, plans and argument checks are private to the library.
set(public_headers halfbyte/halfbyte.h halfbyte/halfbyte_gemm.h halfbyte/ops/common/activation.h
    halfbyte/ops/common/quantize_spec.h halfbyte/ops/common/rounding.h
    halfbyte/ops/gemm/gemm_silu_mul.h halfbyte/ops/rope/rope_table.h)
foreach(name IN ITEMS cpu_level dtype execution macros status tensor_view)
  list(APPEND public_headers halfbyte/base/${name}.h)
endforeach()
foreach(pattern IN ITEMS numerics/*.h formats/*.h ops/*/*_math.h)
  file(GLOB found CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}
       ${PROJECT_SOURCE_DIR}/halfbyte/${pattern})
  list(APPEND public_headers ${found})
endforeach()
list(FILTER public_headers EXCLUDE REGEX "/(oracle|[a-z0-9_]*test[a-z0-9_]*)\\.h$")
file(GLOB rooms CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/halfbyte/ops
     ${PROJECT_SOURCE_DIR}/halfbyte/ops/*)
foreach(room IN LISTS rooms)
  if(EXISTS ${PROJECT_SOURCE_DIR}/halfbyte/ops/${room}/${room}.h)
    list(APPEND public_headers halfbyte/ops/${room}/${room}.h)
  endif()
endforeach()
foreach(header IN LISTS public_headers)
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/${folder})
endforeach()

set(package_folder ${CMAKE_INSTALL_LIBDIR}/cmake/halfbyte)
install(EXPORT halfbyteTargets NAMESPACE halfbyte:: DESTINATION ${package_folder})
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/halfbyteConfig.cmake.in
  ${PROJECT_BINARY_DIR}/halfbyteConfig.cmake INSTALL_DESTINATION ${package_folder})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/halfbyteConfigVersion.cmake
  COMPATIBILITY SameMajorVersion)
install(FILES ${PROJECT_BINARY_DIR}/halfbyteConfig.cmake
  ${PROJECT_BINARY_DIR}/halfbyteConfigVersion.cmake DESTINATION ${package_folder})

# pkg-config finds the prefix from the place of the file, so this package can be moved too.
file(RELATIVE_PATH HALFBYTE_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig
     ${CMAKE_INSTALL_PREFIX})
string(REGEX REPLACE "/$" "" HALFBYTE_PC_PREFIX "${HALFBYTE_PC_PREFIX}")
configure_file(${PROJECT_SOURCE_DIR}/cmake/halfbyte.pc.in ${PROJECT_BINARY_DIR}/halfbyte.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/halfbyte.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
