#!/usr/bin/env bash
# check.sh [family...]: the shim against every header family that can be had (or those named): compiled without a
# warning, and run on the doubles of that family under AddressSanitizer and UndefinedBehaviorSanitizer. Where there is a
# clang++ (or a g++-9, JetPack 5's) the shim is compiled with that too. One line for each family; exit code 0 only if all
# is well.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$root/.cache/tensorrt/check
models=$root/tests/fixtures/models
shim=$root/src/agent/infer/tensorrt/shim
mkdir -p "$out"
export VEDETTE_SANITIZE=1
# Whatever of the doubles' own switches the caller has set.
unset VEDETTE_TRT_FAULT VEDETTE_TRT_TRACE VEDETTE_TRT_GPU VEDETTE_TRT_VERSION VEDETTE_TRT_DLA VEDETTE_CUDA_NONE
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=0 UBSAN_OPTIONS=print_stacktrace=1

families=$("$here/headers.sh") || exit 1
[ $# -eq 0 ] || families=$*

# One family: everything it says goes to its own log; the last line is the summary.
one() {
    local family=$1 dir=$out/$1 begin=$SECONDS compilers=g++ compiler
    "$here/build.sh" "$family" "$dir" || { echo "$family: does not build"; return 1; }
    for compiler in clang++ g++-9; do
        command -v "$compiler" >/dev/null || continue
        compilers+=" $compiler"
        local made="$dir/.$compiler-ok" source
        for source in "$shim"/*; do
            [ "$made" -nt "$source" ] && continue
            "$compiler" -std=c++14 -fsyntax-only -fPIC -Wall -Wextra -Werror -isystem "$root/.cache/tensorrt/headers/$family" \
                "$shim"/*.cpp || { echo "$family: $compiler does not take the shim"; return 1; }
            touch "$made"
            break
        done
    done
    # Only the interface is seen from outside.
    if nm -D --defined-only "$dir/libvedette_trt.so" | awk '{print $NF}' | grep -v '^vt_'; then
        echo "$family: the shim shows more than its interface"
        return 1
    fi
    if ldd "$dir/libvedette_trt.so" | grep -E 'libnv|libtensorrt|libcuda'; then
        echo "$family: the shim links a library of NVIDIA's"
        return 1
    fi
    "$dir/driver" doubles "$dir"/lib{nvinfer,tensorrt_rtx}.so.* "$dir"/lib{nvonnxparser,tensorrt_onnxparser_rtx}.so.* "$models" ||
        { echo "$family: FAILED"; return 1; }
    echo "$family: ok ($compilers; $((SECONDS - begin)) s)"
}

shopt -s nullglob
begin=$SECONDS
failed=0

# The families whose headers are not to be had: the shim's branches for them, against a sketch of what was read.
for family in 805 806 1003; do
    g++ -std=c++14 -fsyntax-only -fPIC -Wall -Wextra -Werror -DSKETCH=$family -isystem "$here/sketch" "$shim"/*.cpp || failed=1
done
echo "8.5, 8.6, 10.3: $([ "$failed" = 0 ] && echo compiled || echo "DO NOT COMPILE") with a sketch of what was read, not with NVIDIA's headers; not run"

running=0
declare -A log
for family in $families; do
    one "$family" >"$out/$family.log" 2>&1 &
    log[$!]=$out/$family.log
    running=$((running + 1))
    if [ "$running" -ge "$(nproc)" ]; then
        wait -n -p done || { failed=1; cat "${log[$done]}"; }
        running=$((running - 1))
    fi
done
while [ "$running" -gt 0 ]; do
    wait -n -p done || { failed=1; cat "${log[$done]}"; }
    running=$((running - 1))
done
# A library of another family is refused: when none of them is being built any more.
for family in $families; do
    for other in "$out"/*/lib{nvinfer,tensorrt_rtx}.so.*; do
        if [ "${other%/*}" != "$out/$family" ]; then
            "$out/$family/driver" gate "$other" >>"$out/$family.gate" 2>&1 ||
                { failed=1; echo "$family: did not refuse $other"; }
        fi
    done
    rm -f "$out/$family.gate"
done
for family in $families; do
    tail -n 2 "$out/$family.log" | tr '\n' ' '
    echo
done
echo "check.sh: $([ "$failed" = 0 ] && echo "all well" || echo FAILED), $((SECONDS - begin)) s"
exit "$failed"
