#!/usr/bin/env bash
# Builds the trainer and runs it: examples/run.sh [--model hybrid] [--mpi P] | [--cuda] [--text PATH] [--out DIR] [--steps N]; --help lists the
# rest. Pictures and text: examples/run.sh --model multimodal [--images PATH] [--splice llava|internvl|qwen] [--out DIR].
# Without --text it reads this repository, without --out it writes to build/report (build/hybrid-report, build/multimodal-report); with
# --mpi P the ranks are P processes, with --cuda they share a CUDA device. Where nvcc or a device is missing, --cuda says so and ends with 77.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

arguments=() processes="" cuda="" model=text out=""
while (($#)); do
  case $1 in
    --mpi) processes=${2:-none} && shift ;;
    --mpi=*) processes=${1#--mpi=} ;;
    --cuda) cuda=yes ;;
    --model) model=${2:-none} && shift ;;
    --model=*) model=${1#--model=} ;;
    --out | --out=*) out=own && arguments+=("$1") ;;
    *) arguments+=("$1") ;;
  esac
  (($#)) && shift
done
program=sp_trainer needs=examples start=() report=report
case $model in
  text) ;;
  hybrid)
    report=hybrid-report
    arguments+=(--model hybrid)
    if [[ $cuda ]]; then
      echo "sp: linear attention has no kernel for devices: leave out --cuda with --model hybrid" >&2
      exit 2
    fi
    ;;
  multimodal)
    program=sp_multimodal_trainer report=multimodal-report
    if [[ $processes || $cuda ]]; then
      echo "sp: the ranks of --model multimodal are threads: leave out --mpi and --cuda" >&2
      exit 2
    fi
    ;;
  *)
    echo "sp: --model is text, hybrid or multimodal, not '$model'" >&2
    exit 2
    ;;
esac
if [[ $cuda ]]; then
  if [[ $processes ]]; then
    echo "sp: --mpi and --cuda are two programs: the ranks of --cuda are threads that share one device; name one of the two" >&2
    exit 2
  fi
  export PATH=$PATH${CUDA_HOME:+:$CUDA_HOME/bin}:/usr/local/cuda/bin
  if ! command -v nvcc >/dev/null; then
    echo "skipped: --cuda needs nvcc, which was not found: install the CUDA toolkit, or name its folder with CUDA_HOME" >&2
    exit 77
  fi
  program=sp_trainer_cuda
fi
if [[ $processes ]]; then
  if ! [[ $processes =~ ^[1-9][0-9]{0,2}$ ]]; then
    echo "sp: --mpi takes a number of processes, not '$processes'" >&2
    exit 2
  fi
  program=sp_trainer_mpi needs=examples-mpi
  start=(mpirun --oversubscribe -n "$processes")
  ((EUID != 0)) || start+=(--allow-run-as-root)
  export OMPI_MCA_mpi_yield_when_idle=1 # more processes than processors: who waits must let others run
  [[ -t 1 ]] || export TERM=dumb        # mpirun gives every process a terminal, so the trainer cannot tell
fi

"$root/cmake/bootstrap.sh" "$needs"
(
  cd "$root" # presets are read from the current folder; the trainer itself starts where the caller stands
  cmake --preset release >/dev/null
  cmake --build --preset release --parallel "${SP_JOBS:-$(nproc)}" --target "$program"
)

[[ $out ]] || arguments+=(--out "$root/build/$report")
exec ${start[@]+"${start[@]}"} "$root/build/release/examples/$program" ${arguments[@]+"${arguments[@]}"}
