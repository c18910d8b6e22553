#!/bin/sh
# make gpu: the runner (benchmarks/gpu.py) under a Python that has what it needs: the system's where that one has torch with CUDA
# (a lent machine may have no network and must not install anything), else the project's environment. DEVICE=cpu rehearses.
set -eu

device=${DEVICE:-cuda}
probe="import numpy, safetensors, torch, sys; sys.exit('$device'.startswith('cuda') and not torch.cuda.is_available())"

for python in "${PYTHON:-python3}" "${VENV:-.venv}/bin/python"; do
    if "$python" -c "$probe" 2> /dev/null; then
        exec "$python" -m benchmarks.gpu --device "$device" --out "${OUT:-output/gpu}"
    fi
done
echo "gpu: no Python here has torch, numpy and safetensors for device $device: run 'make env' (on a machine with an NVIDIA GPU 'make env" \
    "TORCH=torch'), or rehearse with 'make gpu DEVICE=cpu'" >&2
exit 2
