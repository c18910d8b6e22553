#!/bin/sh
# Make (or complete) the environment in which the adapters for LiveKit and Pipecat are tested: make_frameworks.sh VENV DEST
# It sees everything of the project's environment VENV (torch is not installed twice) and adds what these two frameworks bring; where they
# ask for other versions of something, DEST's come first there and VENV stays as it is.
set -eu

venv=$(cd "$1" && pwd)
dest=$2
started=$(date +%s)

say() { echo "== frameworks: $*"; }

site_of() { "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])'; }

[ -x "$dest/bin/python" ] || "$venv/bin/python" -m venv "$dest"
site_of "$venv" > "$(site_of "$dest")/project.pth"
wanted=$(sed -n 's/^\(livekit\|pipecat\) = \["\(.*\)"\].*/\2/p' pyproject.toml)
say "pip install" $wanted
"$dest/bin/python" -m pip --disable-pip-version-check install -qq --no-compile $wanted < /dev/null
"$dest/bin/python" - "$venv" << 'END'
import sys
import aiortc, av, livekit.agents, numpy, pipecat, torch

for module in (torch, numpy, av, aiortc):
    if not module.__file__.startswith(sys.argv[1]):
        sys.exit(f"frameworks: {module.__name__}: {module.__file__}: hides the one of the project, which is what the tests are about")
END
say "ready after $(($(date +%s) - started)) s"
