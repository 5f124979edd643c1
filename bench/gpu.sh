#!/usr/bin/env bash
# Ten minutes on one GPU: bash bench/gpu.sh [FOLDER] [--tiny] [--parts PART ...] [--rows ROW ...]; a table, and FOLDER/gpu.json (default $OUT, else work/bench)
set -euo pipefail
cd "$(dirname "$0")/.."
exec timeout --signal=INT 600 "${PYTHON:-python}" -m bench.gpu "$@"
