# Cross compiling with the compiler of Zig, which brings the libraries of each system:
#
#     pip install ziglang        (or any other zig)
#     cmake -S espnet_gq/device/csrc -B build -DZIG_TARGET=aarch64-linux-musl \
#         -DCMAKE_TOOLCHAIN_FILE=cmake/zig.cmake
#
# ZIG_TARGET: such as aarch64-linux-musl, x86_64-windows-gnu, aarch64-macos, wasm32-wasi.
# ZIG: the command; by default that of the package ziglang of python3, else zig.
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ZIG ZIG_TARGET)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

if(NOT ZIG_TARGET)
  message(FATAL_ERROR "ZIG_TARGET is not set; for example -DZIG_TARGET=aarch64-linux-musl")
endif()
if(NOT ZIG)
  execute_process(COMMAND python3 -m ziglang version RESULT_VARIABLE missing
                  OUTPUT_QUIET ERROR_QUIET)
  set(ZIG "zig")
  if(missing EQUAL 0)
    set(ZIG "python3 -m ziglang")
  endif()
endif()

if(ZIG_TARGET MATCHES "windows")
  set(CMAKE_SYSTEM_NAME Windows)
elseif(ZIG_TARGET MATCHES "macos")
  set(CMAKE_SYSTEM_NAME Darwin)
elseif(ZIG_TARGET MATCHES "linux")
  set(CMAKE_SYSTEM_NAME Linux)
else()
  set(CMAKE_SYSTEM_NAME Generic)
endif()
if(ZIG_TARGET MATCHES "wasm") # its C++ library has none: without memory the program ends
  set(CMAKE_CXX_FLAGS_INIT "-fno-exceptions")
endif()
string(REGEX MATCH "^[^-]+" CMAKE_SYSTEM_PROCESSOR "${ZIG_TARGET}")
# Threads are a part of the C library; FindThreads, which does not link here, would take
# any library for theirs.
set(CMAKE_HAVE_LIBC_PTHREAD TRUE CACHE BOOL "")

# CMake takes each tool as one program. It identifies a compiler by a program that it
# builds; an object does as well, and needs none of the system's libraries, which Zig
# builds when it first links.
foreach(tool "c++ -target ${ZIG_TARGET}" ar ranlib)
  string(REGEX MATCH "^[^ ]+" name "${tool}")
  file(WRITE "${CMAKE_BINARY_DIR}/zig/${name}" "#!/bin/sh
case \"$*\" in *CMakeCXXCompilerId.cpp) set -- -c \"$@\";; esac
exec ${ZIG} ${tool} \"$@\"
")
  execute_process(COMMAND chmod +x "${CMAKE_BINARY_DIR}/zig/${name}")
endforeach()
set(CMAKE_CXX_COMPILER "${CMAKE_BINARY_DIR}/zig/c++")
set(CMAKE_AR "${CMAKE_BINARY_DIR}/zig/ar" CACHE FILEPATH "" FORCE)
set(CMAKE_RANLIB "${CMAKE_BINARY_DIR}/zig/ranlib" CACHE FILEPATH "" FORCE)
