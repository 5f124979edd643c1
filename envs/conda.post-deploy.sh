#!/usr/bin/env bash
set -euo pipefail
python -m pip install --no-deps torchattacks==3.5.1 torchvision==0.28.0  # as in nodeps.txt
