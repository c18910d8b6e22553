#!/bin/sh
# make gpu: on a CUDA machine, train (or go on training) and run the GPU benches; results into $OUT.
# Uses the system's Python where that one has torch with CUDA (a lent machine may have no network and must not
# install anything), else the project's environment. MINUTES (default 20) are shared by all recipes of `tiny` as
# tm_core/train/recipes.py says. Inputs and checkpoints are in TM_BUILD (default build/train; `talking-machines train
# prepare` writes the inputs); where no checkpoint was carried along, training goes on from the bundled weights.
set -eu

out=${OUT:-output/gpu}
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

work=${TM_BUILD:-build/train}
say "training: tiny, ${MINUTES:-20} minutes, resumed where its checkpoints in $work stopped"
TM_BUILD="$work" "$python" -c "
import logging, os, pathlib
from tm_core.train.training_run import main
logging.basicConfig(level=logging.INFO, format='%(message)s')
main('tiny', minutes=float(os.environ.get('MINUTES', '20')), device='cuda', out=pathlib.Path('$out') / 'tiny.safetensors')
"

say "benches"
TM_BUILD="$work" "$python" -c "
import json, pathlib
from tm_core.cli.bench import run_bench
print(json.dumps(run_bench('gpu', weights=pathlib.Path('$out') / 'tiny.safetensors')))
" > "$out/bench_gpu.json" || say "bench gpu ended with $?"

say "results to $out (files up to 16 MiB)"
find "$work" -type f \( -name '*.safetensors' -o -name '*.json' -o -name '*.jsonl' \) -size -16385k -exec cp {} "$out/" \;
ls -l "$out"
