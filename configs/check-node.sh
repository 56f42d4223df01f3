#!/bin/sh
# Whether a machine can run vLLM on its GPU: one line a check, exit status 1 where one fails.
#
#   sh configs/check-node.sh [PYTHON]     PYTHON: the interpreter that Ray will run in; its Python.h is looked for
#
# The first of cluster.yaml's setup_commands, as a failure here would show minutes later as an error of torch or Triton.
# GPUs are found on the PCI bus, so a machine without one passes and one whose driver does not answer fails.

DRIVER=580 # CUDA 13, which requirements/gpu.lock brings
GLIBC=2.28 # vLLM's wheel is manylinux_2_28
PCI=${PCI:-/sys/bus/pci/devices}
failed=0

ok() { echo "ok    $1"; }
fail() { echo "fail  $1" >&2; failed=1; }
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; } # at_least FOUND WANTED

glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null | cut -d' ' -f2)
if at_least "${glibc:-0}" "$GLIBC"; then ok "glibc $glibc"
else fail "glibc ${glibc:-unknown}: vLLM needs $GLIBC or newer; use an image of Ubuntu 22.04 or newer"; fi

if cat "$PCI"/*/vendor 2>/dev/null | grep -qi 10de; then
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1)
    if at_least "${driver:-0}" "$DRIVER"; then ok "NVIDIA driver $driver"
    else fail "NVIDIA driver ${driver:-missing}: CUDA 13 needs $DRIVER or newer; use a newer image, or install the driver"; fi
    if command -v cc >/dev/null || command -v gcc >/dev/null; then ok "C compiler"
    else fail "C compiler missing: Triton compiles a launcher for every kernel; apt-get install build-essential"; fi
    if [ -n "$1" ]; then
        include=$("$1" -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null)
        if [ -f "$include/Python.h" ]; then ok "Python.h in $include"
        else fail "Python.h missing in ${include:-$1}: Triton needs it; apt-get install python3.11-dev, or a Python of uv"; fi
    fi
else
    ok "no NVIDIA GPU on the PCI bus: nothing here needs a driver"
fi
exit $failed
