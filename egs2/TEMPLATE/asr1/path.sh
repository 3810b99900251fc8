# shellcheck shell=bash
# Sourced by asr.sh and local/data.sh from a recipe folder (egs2/<corpus>/asr1).
MAIN_ROOT=${ESPNET_ROOT:-$PWD/../../..}

if [ -n "${ESPNET_ROOT:-}" ]; then
    export PATH=$PWD/utils/:$PATH
    export LC_ALL=C
    # These files exist only in a tree with installed tools.
    for file in activate_python.sh extra_path.sh; do
        if [ -f "${MAIN_ROOT}/tools/${file}" ]; then
            # shellcheck disable=SC1090
            . "${MAIN_ROOT}/tools/${file}"
        fi
    done
else
    export LC_ALL=C.UTF-8
fi

# Debian's package sctk installs sclite outside the PATH.
if ! command -v sclite > /dev/null && [ -d /usr/lib/sctk/bin ]; then
    export PATH=$PATH:/usr/lib/sctk/bin
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Threads wait without spinning: on a busy machine, spinning makes training on the CPU
# several times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-20000}
export PYTHONIOENCODING=UTF-8
export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-^lo,docker,virbr,vmnet,vboxnet}
