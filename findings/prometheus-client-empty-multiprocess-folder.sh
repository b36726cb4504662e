#!/bin/sh
# prometheus_client 0.26.0: a variable PROMETHEUS_MULTIPROC_DIR that is set but empty turns the multiprocess mode on. The
# files of the metrics are then made in the current folder, and a counter is read from them.
# Seen: MmapedValue, files: counter_*.db
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q prometheus_client==0.26.0
mkdir "$folder/empty"
cd "$folder/empty"
PROMETHEUS_MULTIPROC_DIR="" "$folder/venv/bin/python" - <<'PYTHON'
import pathlib
import re

from prometheus_client import Counter

counter = Counter("requests", "Requests.")
counter.inc()
files = [re.sub(r"\d+", "*", path.name) for path in pathlib.Path().iterdir()]
print(type(counter._value).__name__ + ", files:", *files)
assert (type(counter._value).__name__, files) == ("MmapedValue", ["counter_*.db"])
PYTHON
