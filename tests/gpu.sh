#!/usr/bin/env bash
# What only a GPU can prove: builds with nvcc alone, runs conformance, the sanitizer of CUDA and the benches G1 to G5, in under ten minutes.
# tests/gpu.sh [--strict] [step]...   all steps, or these; what there is no time or no library for is skipped by name
#               exit status 0: none failed and some passed. 77: there is no GPU. --strict: a step that needs no library fails if it is skipped
# tests/gpu.sh --list      the steps
# tests/gpu.sh --build     compiles every program and runs none: needs no GPU
# tests/gpu.sh --pack      puts what a bare machine lacks into build/gpu-needs, which then travels with the tree
# SP_GPU_SECONDS: time for everything (540). SP_JOBS: compilers at once. SP_GPU_ARCH: sm_90a, ... OUT: folder of results.json (build/gpu).
# SP_GPU_HOST: optimisation of what runs on the host, the oracle above all (-O1).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
began=$SECONDS
work=build/gpu
needs=build/gpu-needs
: "${LD_LIBRARY_PATH:=}"
out=${OUT:-$work}
limit=${SP_GPU_SECONDS:-540}
jobs=${SP_JOBS:-$(nproc)}

# ---- what there is ------------------------------------------------------------------------------------------------------------------------

# step, program, seconds at most, command behind the program's name; in order of worth
steps=(
  'proofs            proofs     60'
  'flash             flash     120'
  'reference         reference 120'
  'rows              rows       60'
  'graphs            graphs     60'
  'captures          captures   60'
  'flash_graphs      flash_graphs 60'
  'row_graphs        row_graphs 60'
  'nccl              nccl       60'
  'nccl_graphs       nccl_graphs 60'
  'cudnn             cudnn     120'
  'bench_copies      bench_copies     45'
  'bench_attention   bench_attention 180'
  'nccl_several      nccl       90'
  'memcheck_proofs   proofs     60'
  'racecheck_proofs  proofs     60'
  'memcheck_flash    flash      90'
  'racecheck_flash   flash     120'
  'memcheck_rows     rows       60'
  'memcheck_reference reference 60'
)
# program, what it needs, source, flags; what takes longest to compile comes first
programs=(
  'engine          cudnn          tests/cuda/cudnn_engine.cpp'
  'bench_attention cublas?,cudnn? bench/gpu/attention.cu'
  'flash           test           tests/cuda/conformance.cu   -DSP_TEST_KERNEL=flash'
  'reference       test           tests/cuda/conformance.cu   -DSP_TEST_KERNEL=reference'
  'nccl            test,nccl      tests/cuda/conformance.cu   -DSP_TEST_KERNEL=reference -DSP_TEST_NCCL'
  'nccl_graphs     test,nccl      tests/cuda/test_nccl_object_graphs.cpp'
  'cudnn           test,cudnn     tests/cuda/conformance.cu   -DSP_TEST_KERNEL=cudnn'
  'row_graphs      test           tests/cuda/test_graph_rows.cpp'
  'flash_graphs    test           tests/cuda/test_flash_graphs.cpp'
  'graphs          test           tests/cuda/test_graphs.cpp'
  'captures        test           tests/cuda/test_capture.cpp'
  'rows            test           tests/cuda/test_rows.cpp    -fmad=false'
  'bench_copies    none           bench/gpu/copies.cu'
  'proofs          none           tests/cuda/block_proofs.cu'
)

step_names() { for s in "${steps[@]}"; do echo "${s%% *}"; done; }

# Folders that may hold headers or libraries: what travels, the toolkit, the system, and where pip puts NVIDIA's packages.
find_folders() {
  nvcc=$(command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" /usr/local/cuda*/bin/nvcc 2>/dev/null | head -n 1)
  local cuda site
  cuda=$([[ -n $nvcc ]] && dirname "$(dirname "$(readlink -f "$nvcc")")")
  unpack
  include_folders=("$needs/include" ${SP_CUDNN_FRONTEND_DIR:+"$SP_CUDNN_FRONTEND_DIR/include"} "$cuda/include" /usr/local/cuda/include /usr/include)
  library_folders=("$work/lib" "$cuda/lib64" "$cuda/lib" "$cuda/targets/x86_64-linux/lib" /usr/local/cuda/lib64
    /usr/lib/x86_64-linux-gnu /usr/lib64)
  while read -r site; do
    for package in "$site"/nvidia/*/; do
      include_folders+=("${package}include")
      library_folders+=("${package}lib")
    done
    include_folders+=("$site/include")
  done < <(python3 -c 'import sys; print(*[p for p in sys.path if p], sep="\n")' 2>/dev/null)
}
# Libraries travel compressed.
unpack() {
  local f to
  for f in "$needs"/lib/*.xz; do
    to=$work/lib/$(basename "$f" .xz)
    [[ -e $f && ! $to -nt $f ]] || continue
    mkdir -p "$work/lib"
    python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' "$f" "$to" ||
      xz -dc "$f" >"$to" || rm -f "$to"
  done
}
header() { # the folder of a header
  for folder in "${include_folders[@]}"; do [[ -e $folder/$1 ]] && echo "$folder" && return; done
  return 1
}
library() { # a library's file
  local folder found
  for folder in "${library_folders[@]}"; do
    found=$(ls "$folder/lib$1".so* 2>/dev/null | head -n 1)
    [[ -n $found ]] && echo "$found" && return
  done
  return 1
}

including() { [[ $1 == /usr/include ]] || echo "-isystem $1"; } # which compilers search anyway, and in an order of their own

# Flags of what a program needs, or what is missing.
flags_of() {
  local h l
  case $1 in
    none) ;;
    test)
      h=$(header doctest/doctest.h) || { echo "doctest/doctest.h was not found"; return 1; }
      echo "$(including "$h") -DDOCTEST_CONFIG_SUPER_FAST_ASSERTS ${SP_GPU_HOST:--O1} tests/main.cpp" ;;
    nccl)
      h=$(header nccl.h) && l=$(library nccl) || { echo "NCCL was not found"; return 1; }
      echo "$(including "$h") $l" ;;
    cublas)
      h=$(header cublas_v2.h) && l=$(library cublas) || { echo "cuBLAS was not found"; return 1; }
      echo "-DSP_BENCH_CUBLAS $(including "$h") $l" ;;
    cudnn)
      h=$(header cudnn.h) && l=$(library cudnn) && header cudnn_frontend.h >/dev/null && library nvrtc >/dev/null ||
        { echo "cuDNN, its frontend's headers or NVRTC were not found"; return 1; }
      echo "-DSP_BENCH_CUDNN $(including "$h") $(including "$(header cudnn_frontend.h)") $l $(library nvrtc) -ldl" ;;
  esac
}

# ---- building -----------------------------------------------------------------------------------------------------------------------------

say_status() { echo "$2" >"$work/$1.status.tmp" && mv "$work/$1.status.tmp" "$work/$1.status"; }

# Compiles and links one program; its log and status lie beside it.
build() {
  local name=$1 need=$2 source=$3 flags=() more optional l
  shift 3
  for more in ${need//,/ }; do
    optional=${more%\?}
    if l=$(flags_of "$optional"); then
      read -ra l <<<"$l"
      flags+=("${l[@]}")
      [[ $optional == cudnn && $name != engine ]] && flags+=("$work/engine.o")
    elif [[ $more == "$optional" ]]; then
      say_status "$name" "skipped: $l"
      return
    fi
  done
  local start=$SECONDS objects=() compile=() link=() f
  for f in "${flags[@]}"; do
    case $f in
      *.so | *.so.*) # nvcc takes no name with a version behind it, which is all that pip installs
        mkdir -p "$work/$name.links"
        l=$work/$name.links/$(basename "${f%%.so*}").so
        ln -sf "$(realpath "$f")" "$l"
        f=$(realpath "$(dirname "$f")")
        link+=("$l" -Xlinker -rpath="$f" -Xlinker -rpath-link="$f") ;;
      *.o | -l*) link+=("$f") ;;
      *.cpp) objects+=("$f") ;;
      *) compile+=("$f") ;;
    esac
  done
  (($(left) > 1)) || { say_status "$name" "skipped: the time was up before it was built"; return; } # timeout 0 were no limit
  local code=(-gencode "arch=compute_${arch#*_},code=$arch") # nvcc 13 compiles twice for -arch=sm_90a
  # in the foreground, so that compilers stay in the group of processes that ends with this script
  local common=(timeout --foreground "$(left)" "$nvcc" -std=c++20 "${code[@]}" -Iinclude -Itests -Xcompiler -pthread -Xlinker --allow-shlib-undefined -diag-suppress 177)
  if [[ $name == engine ]]; then
    "${common[@]}" "${compile[@]}" -c "$source" -o "$work/engine.o" >"$work/$name.log" 2>&1
  else
    "${common[@]}" "${compile[@]}" "$@" -x cu -c "$source" -o "$work/$name.o" >"$work/$name.log" 2>&1 &&
      if ((${#objects[@]})); then "${common[@]}" "${compile[@]}" -c "${objects[@]}" -o "$work/$name.main.o" >>"$work/$name.log" 2>&1; fi &&
      if [[ " ${link[*]} " == *"/engine.o "* ]]; then
        while [[ ! -e $work/engine.status ]]; do sleep 0.2; done
      fi &&
      "${common[@]}" "$work/$name.o" $( ((${#objects[@]})) && echo "$work/$name.main.o") "${link[@]}" -o "$work/$name" >>"$work/$name.log" 2>&1
  fi
  local status=$?
  case $status in
    0) say_status "$name" "built in $((SECONDS - start)) s" ;;
    124) say_status "$name" "skipped: the time was up before it was built" ;;
    *) say_status "$name" "failed: $work/$name.log" ;;
  esac
}
# All that are asked for, as many at once as there may be.
build_all() {
  local p wanted=" $* "
  for p in "${programs[@]}"; do
    read -ra p <<<"$p"
    [[ $wanted == *" ${p[0]} "* ]] || continue
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
    build "${p[@]}" &
  done
  wait
}

# ---- running ------------------------------------------------------------------------------------------------------------------------------

left() { echo $((limit - (SECONDS - began))); }
table=() passed=0 failed=0 skipped=0 strict=
# A text of JSON: quotes and backslashes escaped, on one line.
json() {
  local text=${1//\\/\\\\}
  text=${text//\"/\\\"}
  printf '"%s"' "${text//[[:cntrl:]]/ }"
}
needs_no_library() { # whether a step's program is made of what travels with the tree
  local s p
  for s in "${steps[@]}"; do
    read -ra s <<<"$s"
    [[ ${s[0]} == "$1" ]] || continue
    for p in "${programs[@]}"; do
      read -ra p <<<"$p"
      [[ ${p[0]} == "${s[1]}" && ${p[1]} =~ ^(none|test)$ ]] && return
    done
  done
  return 1
}
note() { # step, result, seconds, more
  [[ -n $strict && $2 == skipped ]] && needs_no_library "$1" && set -- "$1" failed "$3" "skipped: $4"
  table+=("$(printf '%-20s %-8s %4s s  %s' "$1" "$2" "$3" "${4:-}")")
  json_steps+="${json_steps:+,$'\n'}    {\"step\": \"$1\", \"result\": \"$2\", \"seconds\": $3, \"note\": $(json "${4:-}")}"
  case $2 in passed) ((++passed)) ;; failed) ((++failed)) ;; *) ((++skipped)) ;; esac
  echo "== $1: $2 ${4:-}"
}
json_steps=

nccl_version() { # of the library that a program finds, as 23000
  local h
  h=$(header nccl.h) && awk '/define NCCL_VERSION_CODE/ { print $3; exit }' "$h/nccl.h"
}
# What a step runs: sets `command`; or says why not.
command_of() {
  local step=$1 program=$work/$2 sanitizer options=()
  command=("$program")
  case $step in
    bench_*) command+=("$work/$step.json") ;;
    nccl_several)
      (($(nccl_version) >= 23000)) || { why="several ranks on one GPU need NCCL 2.30, this is $(nccl_version)"; return 1; }
      command=(env NCCL_MULTI_RANK_GPU_ENABLE=1 SP_TEST_TRIALS=16 "$program") ;;
    nccl) command=(env NCCL_MULTI_RANK_GPU_ENABLE=0 SP_TEST_TRIALS=8 "$program") ;;
    nccl_graphs) command=(env "NCCL_MULTI_RANK_GPU_ENABLE=$(($(nccl_version) >= 23000))" "$program") ;;
    memcheck_* | racecheck_*)
      sanitizer=$(command -v compute-sanitizer || ls "$(dirname "$nvcc")/compute-sanitizer" /opt/nvidia/*/*/compute-sanitizer 2>/dev/null |
        head -n 1)
      [[ -n $sanitizer ]] || { why="compute-sanitizer was not found"; return 1; }
      # memcheck: memory of a pool that a stream uses behind the end that another one gave it. racecheck: every hazard, also harmless ones
      [[ $step == memcheck_* ]] && options=(--track-stream-ordered-races all) || options=(--racecheck-report all)
      "$sanitizer" --help 2>&1 | grep -q -e "${options[0]}" || options=() # an older one
      command=(env SP_TEST_TRIALS=4 SP_TEST_FEW_DIMS=1 "$sanitizer" --tool "${step%%_*}" --error-exitcode 99 --report-api-errors no
        "${options[@]}" "$program") ;;
  esac
}
run_step() {
  local step=$1 program=$2 seconds=$3 status why= at code
  while [[ ! -e $work/$program.status ]] && (($(left) > 5)); do sleep 0.2; done
  [[ -e $work/$program.status ]] || { note "$step" skipped 0 "the time was up before it was built"; return; }
  status=$(<"$work/$program.status")
  case $status in
    skipped:*) note "$step" skipped 0 "${status#skipped: }"; return ;;
    failed:*) note "$step" failed 0 "it does not compile: ${status#failed: }"; tail -n 20 "$work/$program.log"; return ;;
  esac
  command_of "$step" "$program" || { note "$step" skipped 0 "$why"; return; }
  (($(left) > 10)) || { note "$step" skipped 0 "the time is up"; return; }
  ((seconds < $(left))) || seconds=$(left)
  at=$SECONDS
  timeout --kill-after=5 "$seconds" "${command[@]}" >"$work/$step.txt" 2>&1
  code=$?
  case $code in
    0) note "$step" passed $((SECONDS - at)) "$(grep -ho '[0-9]* trials.*' "$work/$step.txt" | paste -sd ';' | cut -c 1-60)" ;;
    77) note "$step" failed $((SECONDS - at)) "it found no device, where nvidia-smi names one" ;;
    124 | 137) note "$step" failed $((SECONDS - at)) "it did not end in $seconds s"; tail -n 15 "$work/$step.txt" ;;
    *) note "$step" failed $((SECONDS - at)) "exit $code: $work/$step.txt"; grep -v '^ *$' "$work/$step.txt" | head -n 40 ;;
  esac
  { echo "==== $step" && cat "$work/$step.txt"; } >>"$out/steps.log"
}

write_json() {
  {
    printf '{"gpu": %s, "driver": %s, "nvcc": %s, "arch": %s, "seconds": %d,\n "passed": %d, "failed": %d, "skipped": %d,\n' \
      "$(json "$gpu")" "$(json "$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)")" \
      "$(json "$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')")" "$(json "$arch")" $((SECONDS - began)) $passed $failed $skipped
    printf ' "steps": [\n%s\n  ],\n "benches": [' "$json_steps"
    local separator= f
    for f in "$work"/bench_*.json; do [[ -s $f ]] && printf '%s\n' "$separator" && cat "$f" && separator=,; done
    printf '  ]}\n'
  } >"$out/results.json"
}

# ---- what may be asked --------------------------------------------------------------------------------------------------------------------

# Headers that no bare machine has. With SP_PACK_NCCL=90 also PyPI's NCCL with its code for sm_90 alone: for machines whose own is older.
pack() {
  find_folders
  local h
  mkdir -p "$needs/include/doctest" "$needs/lib"
  h=$(header doctest/doctest.h) || { echo "doctest/doctest.h was not found (Debian: doctest-dev)"; return 1; }
  [[ $h == "$needs/include" ]] || cp "$h/doctest/doctest.h" "$needs/include/doctest/"
  if ! h=$(header cudnn_frontend.h); then
    local folder
    folder=$(mktemp -d)
    if python3 -m pip download -q --no-deps -d "$folder" nvidia-cudnn-frontend &&
      python3 -m zipfile -e "$folder"/nvidia_cudnn_frontend*.whl "$folder/all"; then
      h=$folder/all/include
    else
      echo "cudnn-frontend could not be fetched: the steps of cuDNN will be skipped, unless the machine has its headers"
    fi
  fi
  [[ -z $h || $h == "$needs/include" ]] || cp -r "$h"/cudnn_frontend* "$needs/include/"
  if [[ -n ${SP_PACK_NCCL:-} ]]; then
    local nccl
    nccl=$(mktemp -d)
    python3 -m pip download -q --no-deps -d "$nccl" nvidia-nccl-cu13 && python3 -m zipfile -e "$nccl"/*.whl "$nccl/all" &&
      python3 tests/tools/one_arch.py "$nccl/all/nvidia/nccl/lib/libnccl.so.2" "$needs/lib/libnccl.so.2.xz" "$SP_PACK_NCCL" &&
      cp -r "$nccl/all/nvidia/nccl/include/." "$needs/include/" || echo "NCCL could not be packed: the machine's own is taken"
    rm -rf "$nccl"
  fi
  du -sh "$needs" | sed 's/$/: what travels/'
}

[[ ${1:-} == --strict ]] && strict=yes && shift
case ${1:-} in
  --list) step_names; exit ;;
  --pack) pack; exit ;;
  --help | -h) sed -n '2,9s/^# //p' "$0"; exit ;;
esac

find_folders
if [[ ${1:-} == --build ]]; then
  [[ -n $nvcc ]] || { echo "skipped: no nvcc was found"; exit 77; }
  arch=${SP_GPU_ARCH:-sm_90a} limit=100000
  mkdir -p "$work" && rm -f "$work"/*.status
  all=()
  for p in "${programs[@]}"; do all+=("${p%% *}"); done
  (($# > 1)) && all=("${@:2}")
  [[ " ${all[*]} " =~ \ (cudnn|bench_attention)\  && " ${all[*]} " != *" engine "* ]] && all+=(engine)
  build_all "${all[@]}"
  bad=0
  for p in "${all[@]}"; do
    echo "$p: $(<"$work/$p.status")"
    grep -q '^failed' "$work/$p.status" && bad=1 && grep -v '^ *$' "$work/$p.log" | head -n 30
  done
  exit $bad
fi

gpu=
if [[ -z ${CUDA_VISIBLE_DEVICES+x} || -n $CUDA_VISIBLE_DEVICES ]]; then
  gpu=$(nvidia-smi --query-gpu=name,compute_cap --format=csv,noheader 2>/dev/null | head -n 1)
fi
[[ -n $gpu && $gpu == *,* ]] || { echo "skipped: no GPU was found (nvidia-smi names none): nothing was run"; exit 77; }
[[ -n $nvcc ]] || { echo "skipped: no nvcc was found"; exit 77; }
capability=$(tr -d ' .' <<<"${gpu##*,}")
((capability >= 80)) || { echo "skipped: ${gpu%%,*} is older than sm_80"; exit 77; }
((capability == 90)) && capability=90a
arch=${SP_GPU_ARCH:-sm_$capability}
gpu=${gpu%%,*}

mkdir -p "$work" "$out" && rm -f "$work"/*.status "$work"/bench_*.json "$work"/*.txt "$out/steps.log"
echo "$gpu, $arch, $nvcc, $jobs compilers at once, $limit s"
# Streams of virtual ranks must not wait for each other in one connection; kernels are loaded when a program starts, not while others wait.
export CUDA_DEVICE_MAX_CONNECTIONS=32 CUDA_MODULE_LOADING=EAGER
for f in "${library_folders[@]}"; do
  [[ $f == /usr/lib* ]] || LD_LIBRARY_PATH+=${LD_LIBRARY_PATH:+:}$f # the system's are found anyway, and would hide others
done
export LD_LIBRARY_PATH

chosen=" $* " programs_needed=
for s in "${steps[@]}"; do
  read -ra s <<<"$s"
  [[ $# == 0 || $chosen == *" ${s[0]} "* ]] && programs_needed+=" ${s[1]}"
done
[[ -n $programs_needed ]] || { echo "no such step: $*; tests/gpu.sh --list names them"; exit 2; }
[[ $programs_needed == *cudnn* || $programs_needed == *bench_attention* ]] && programs_needed+=" engine"
set -m # a group of processes of its own, which ends however this script ends
{ set +m && build_all $programs_needed; } &
builder=$!
set +m
trap 'kill -- "-$builder" 2>/dev/null' EXIT
for s in "${steps[@]}"; do
  read -ra s <<<"$s"
  [[ $# == 0 || $chosen == *" ${s[0]} "* ]] && run_step "${s[@]}" && write_json
done
write_json

echo
echo "---- $gpu: steps ----"
printf '%s\n' "${table[@]}"
echo "---- benches: median [quartiles]; full numbers in $out/results.json ----"
cat "$work"/bench_*.txt 2>/dev/null | sed -n 's/^bench //p'
echo "---- $passed passed, $failed failed, $skipped skipped, $((SECONDS - began)) s ----"
((passed > 0)) || echo "nothing passed: nothing is proved"
((failed == 0 && passed > 0))
