#!/bin/sh
# make gpu: on a CUDA machine, train (or go on training) and run the GPU benches; results into $OUT.
# Uses the system's Python where that one has torch with CUDA (a lent machine may have no network and must not
# install anything), else the project's environment. MINUTES limits the training.
set -eu

out=${OUT:-output/gpu}
minutes=${MINUTES:-8}
probe='import torch, safetensors, sys; sys.exit(not torch.cuda.is_available())'

say() { echo "== gpu: $*"; }

if "${PYTHON:-python3}" -c "$probe" 2> /dev/null; then
    python=${PYTHON:-python3}
elif "${VENV:-.venv}/bin/python" -c "$probe" 2> /dev/null; then
    python=${VENV:-.venv}/bin/python
else
    echo "gpu: no Python here has torch with a CUDA device: run 'make env TORCH=torch' on a machine with an NVIDIA GPU" >&2
    exit 2
fi
mkdir -p "$out"
say "$("$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name(0))')"

say "training: tiny, at most $minutes minutes, resumed where it stopped"
"$python" -m tm_core.train.run tiny --minutes "$minutes" --device cuda

if "$python" -c 'import typer' 2> /dev/null; then
    say "benches"
    "$python" -m tm_core.cli bench gpu --json > "$out/bench_gpu.json" || say "a figure missed its bar: $out/bench_gpu.json"
fi

say "results to $out (files up to 16 MiB)"
find output/train tm_core/assets/weights -type f \( -name '*.safetensors' -o -name '*.json' -o -name '*.jsonl' \) -size -16385k \
    -exec cp {} "$out/" \; 2> /dev/null || true
ls -l "$out"
