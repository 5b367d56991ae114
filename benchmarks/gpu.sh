#!/usr/bin/env bash
# Every figure that needs a GPU, in under 8 minutes: benchmarks/gpu.sh FOLDER [--tiny]
#
# Writes one JSON line a part into FOLDER, and all of them into FOLDER/gpu.json. The parts come by
# importance. A part whose JSON is there is skipped, so that a second run goes on with the rest. A
# part that fails or takes too long leaves its log alone, and the others run. --tiny runs small
# shapes on a CPU: a dry run. PYTHON names the interpreter; the default is .venv/bin/python, or
# python3 where there is none. BUDGET_S are the seconds of one run.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:?usage: benchmarks/gpu.sh FOLDER [--tiny]}
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
export PYTHONPATH="$PWD"

budget_s=${BUDGET_S:-470}
device=cuda
shape=(--model 14b --width 832 --height 480 --chunks 3)
if [ "${2:-}" = --tiny ]; then
    device=cpu
    shape=(--model tiny --layers 2 --width 96 --height 64 --chunks 2)
    export OMP_NUM_THREADS=1  # on a busy machine, threads of such small products wait for each other
fi

# part NAME SECONDS COMMAND ...: the last line of its output that is a JSON object becomes NAME.json.
part() {
    local name=$1 limit_s=$2 began=$SECONDS left_s=$((budget_s - SECONDS)) json
    shift 2
    if [ -s "$out/$name.json" ]; then
        echo "$name: already there"
        return
    fi
    if [ "$left_s" -lt 20 ]; then
        echo "$name: left for another run"
        return
    fi
    if timeout $((limit_s < left_s ? limit_s : left_s)) "$@" >"$out/$name.log" 2>&1; then
        json=$(grep '^{' "$out/$name.log" | tail -n 1)
        echo "${json:-{\}}" >"$out/$name.json"
        echo "$name: $((SECONDS - began)) s"
    else
        echo "$name: failed after $((SECONDS - began)) s, see $name.log"
        tail -n 3 "$out/$name.log"
    fi
}

chunk() {
    local name=$1
    shift
    part "chunk_$name" 120 "$python" -m benchmarks.chunk --device "$device" "${shape[@]}" "$@"
}

short=(--window 9 --sink 6)
long=(--window 15 --sink 3)

# Only files with the mark: others import what a machine for this may not have.
mapfile -t tests < <(grep -rlF --include='test_*.py' pytest.mark.gpu tests | sort)
# pytest's summary is no JSON: the part's is its exit status, and its log has the rest.
part tests 150 "$python" -c '
import json, sys, pytest
status = int(pytest.main(["-m", "gpu", "-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
print(json.dumps({"benchmark": "gpu tests", "status": status}))
sys.exit(status if status != pytest.ExitCode.NO_TESTS_COLLECTED else 0)' "${tests[@]}"
chunk w9_s6 "${short[@]}" --vae tiny
chunk w15_s3 "${long[@]}"
chunk w9_s6_compile "${short[@]}" --compile
chunk w9_s6_no_camera_cache "${short[@]}" --camera-cache off
chunk w9_s6_sdpa "${short[@]}" --attention sdpa
if [ "$device" = cuda ]; then
    chunk w9_s6_cudnn "${short[@]}" --attention cudnn
    chunk w9_s6_fp8 "${short[@]}" --fp8
    chunk w9_s6_fp8_compile "${short[@]}" --fp8 --compile
else
    chunk w9_s6_fp8 "${short[@]}" --fp8 --dtype bfloat16
fi
chunk w15_s3_compile "${long[@]}" --compile
chunk w9_s6_full_vae "${short[@]}" --layers 1 --vae full
part pocket 120 "$python" -m benchmarks.realtime --speed --chunks 60 --device "$device"

"$python" - "$out" <<'END'
import json, pathlib, sys

out = pathlib.Path(sys.argv[1])
paths = sorted(path for path in out.glob("*.json") if path.name != "gpu.json")
(out / "gpu.json").write_text(json.dumps({p.stem: json.loads(p.read_text()) for p in paths}) + "\n")
failed = sorted({path.stem for path in out.glob("*.log")} - {path.stem for path in paths})
print(f"{out / 'gpu.json'}: {len(paths)} parts; failed: {', '.join(failed) or 'none'}")
sys.exit(bool(failed))
END
