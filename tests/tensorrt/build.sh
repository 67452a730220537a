#!/usr/bin/env bash
# build.sh <family> <outdir>: the shim and the doubles of one header family, what is out of date of them.
#
#   libvedette_trt.so                        the shim
#   libnvinfer.so.<major>, libnvonnxparser.so.<major>          the doubles (RTX: libtensorrt_rtx.so.1 and
#                                            libtensorrt_onnxparser_rtx.so.1)
#   libcuda.so                               the CUDA double
#   driver                                   driver.c, which check.sh runs
#
# VEDETTE_SANITIZE=1 builds all of it with AddressSanitizer and UndefinedBehaviorSanitizer. CXX and CC as usual.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
if [ $# -ne 2 ]; then
    sed -n '2,11s/^# \?//p' "$0" >&2
    exit 2
fi
family=$1
headers=$root/.cache/tensorrt/headers/$family
shim=$root/src/agent/infer/tensorrt/shim
[ -e "$headers" ] || "$here/headers.sh" >/dev/null
[ -e "$headers" ] || { echo "build.sh: no headers of family $family" >&2; exit 2; }
mkdir -p "$2"
out=$(cd "$2" && pwd)

CXX=${CXX:-g++}
CC=${CC:-gcc}
common=(-g1 -fPIC -pthread -Wall -Wextra -Werror)
if [ -n "${VEDETTE_SANITIZE:-}" ]; then
    common+=(-O0 -fsanitize=address,undefined -fno-sanitize-recover=undefined)
else
    common+=(-O1)
fi
nvidia=(-isystem "$headers")
# Of the doubles: the stubs name every parameter and use none, and override what is deprecated.
double=(-std=c++17 -fvisibility=hidden -fno-gnu-unique -Wno-unused-parameter -Wno-deprecated-declarations
    -Wno-overloaded-virtual -I"$out" "${nvidia[@]}")

case $family in
rtx-*) nvinfer=libtensorrt_rtx.so.1 parser=libtensorrt_onnxparser_rtx.so.1 ;;
*) nvinfer=libnvinfer.so.${family%%.*} parser=libnvonnxparser.so.${family%%.*} ;;
esac

# make_it <target> <what it is made of> -- <command>: runs it if the target is older than any of it.
make_it() {
    local target=$1 newest=()
    shift
    while [ "$1" != -- ]; do newest+=("$1"); shift; done
    shift
    local source
    for source in "${newest[@]}" "$here/build.sh"; do
        if [ ! -e "$target" ] || [ "$source" -nt "$target" ]; then
            "$@"
            return
        fi
    done
}

write_stubs() {
    python3 "$here/stubs.py" "$headers" >"$out/stubs.h.new"
    mv "$out/stubs.h.new" "$out/stubs.h"
}

lib=$here/testlib
plain=(-std=c++17 -fvisibility=hidden -fno-gnu-unique)
make_it "$out/libvedette_trt.so" "$shim"/*.cpp "$shim"/*.h "$shim"/exports.map -- \
    "$CXX" -std=c++14 "${common[@]}" -shared -fvisibility=hidden "${nvidia[@]}" "$shim"/*.cpp -o "$out/libvedette_trt.so" \
    -Wl,--version-script="$shim/exports.map" -Wl,-z,nodelete -Wl,-soname,libvedette_trt.so -ldl

# What no family changes is compiled once for all that are built side by side; several may be built at a time.
same=$(dirname "$out")/.same-$(basename "$CXX")${VEDETTE_SANITIZE:+-sanitized}
mkdir -p "$same"
(
    flock 9
    for part in onnx ops cuda_calls; do
        make_it "$same/$part.o" "$lib/$part.cpp" "$lib"/{onnx,cuda_calls}.h -- \
            "$CXX" "${common[@]}" "${plain[@]}" -c "$lib/$part.cpp" -o "$same/$part.o"
    done
    make_it "$same/libcuda.so" "$lib"/cuda{,_streams}.cpp "$lib"/cuda_double.h "$lib"/faults.h -- \
        "$CXX" "${common[@]}" "${plain[@]}" -shared "$lib"/cuda{,_streams}.cpp -o "$same/libcuda.so" -Wl,-soname,libcuda.so
) 9>"$same/.lock"
make_it "$out/libcuda.so" "$same/libcuda.so" -- cp "$same/libcuda.so" "$out/libcuda.so"

make_it "$out/stubs.h" "$here/stubs.py" "$headers/NvInferImpl.h" "$headers/NvOnnxParser.h" -- write_stubs
# $ORIGIN: the doubles find each other, and libcuda.so, beside themselves.
make_it "$out/$nvinfer" "$lib"/{nvinfer,builder}.cpp "$lib"/*.h "$same"/{onnx,ops,cuda_calls}.o "$out/stubs.h" -- \
    "$CXX" "${common[@]}" "${double[@]}" -shared "$lib"/{nvinfer,builder}.cpp "$same"/{onnx,ops,cuda_calls}.o \
    -o "$out/$nvinfer" -Wl,-soname,"$nvinfer" -Wl,-rpath,'$ORIGIN' -ldl
make_it "$out/$parser" "$lib"/parser.cpp "$lib"/*.h "$same"/{onnx,ops}.o "$out/stubs.h" "$out/$nvinfer" -- \
    "$CXX" "${common[@]}" "${double[@]}" -shared "$lib"/parser.cpp "$same"/{onnx,ops}.o -o "$out/$parser" \
    -Wl,-soname,"$parser" -Wl,-rpath,'$ORIGIN' "$out/$nvinfer"
if [ -e "$here/driver.c" ]; then
    make_it "$out/driver" "$here"/driver*.[ch] "$shim/vedette_trt.h" "$out/libvedette_trt.so" -- \
        "$CC" -std=c11 "${common[@]}" -Wpedantic -I"$shim" "$here"/driver*.c -o "$out/driver" -Wl,-rpath,'$ORIGIN' \
        "$out/libvedette_trt.so" -ldl -lm
fi
