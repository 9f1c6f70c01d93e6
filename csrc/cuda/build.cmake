# Builds radixkv/_cuda where nvcc is found. The CUDA runtime is linked in, and it finds the driver when it is used:
# the module loads on any machine.
include(CheckLanguage)
check_language(CUDA)
if(NOT CMAKE_CUDA_COMPILER)
  if(RADIXKV_CUDA STREQUAL "ON")
    message(FATAL_ERROR "RADIXKV_CUDA=ON, but nvcc is not found: put it on the PATH or set CUDACXX")
  endif()
  message(STATUS "nvcc not found: radixkv/_cuda is left out, KV moves on the CPU")
  return()
endif()

# Machine code for what is in use, PTX for what comes later. Set before the language brings its own default.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --list-gpu-code OUTPUT_VARIABLE known_code)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 86-real 89-real)
  if(known_code MATCHES "sm_100")
    list(APPEND CMAKE_CUDA_ARCHITECTURES 90-real 100)
  else()
    list(APPEND CMAKE_CUDA_ARCHITECTURES 90)
  endif()
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)

file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cpp
     ${CMAKE_CURRENT_SOURCE_DIR}/cuda/*.cu)
add_library(radixkv_cuda STATIC ${cuda_sources})
set_target_properties(radixkv_cuda PROPERTIES CUDA_STANDARD 17)
target_compile_options(
  radixkv_cuda PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wconversion;-Werror>)
target_include_directories(radixkv_cuda PUBLIC ${CMAKE_CURRENT_SOURCE_DIR})
target_link_libraries(radixkv_cuda PUBLIC radixkv_transfer CUDA::cudart_static)

file(GLOB cuda_bind_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/bind/cuda/*.cpp)
pybind11_add_module(_cuda ${cuda_bind_sources})
target_compile_options(_cuda PRIVATE -Wall -Wextra)
target_link_libraries(_cuda PRIVATE radixkv_cuda)
install(TARGETS _cuda DESTINATION radixkv)
