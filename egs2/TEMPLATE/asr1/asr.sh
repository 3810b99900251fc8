#!/usr/bin/env bash
# Runs ESPnet's own, unchanged asr.sh if an ESPnet tree is available: the one named by
# ESPNET_ROOT, or the one that contains this copy of the recipe. Otherwise runs
# asr_pip.sh, which implements the stages that the pip packages support.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")

is_espnet_tree() {
    [ -d "$1/tools" ] && [ -f "$1/egs2/TEMPLATE/asr1/scripts/utils/print_args.sh" ]
}

if [ -z "${ESPNET_ROOT:-}" ] && is_espnet_tree ../../..; then
    ESPNET_ROOT=$(readlink -f ../../..)
fi

if [ -n "${ESPNET_ROOT:-}" ]; then
    if ! is_espnet_tree "${ESPNET_ROOT}"; then
        echo "$0: ESPNET_ROOT=${ESPNET_ROOT} is not an ESPnet checkout:" \
            "it has no egs2/TEMPLATE/asr1/scripts." >&2
        exit 2
    fi
    ESPNET_ROOT=$(readlink -f "${ESPNET_ROOT}")
    export ESPNET_ROOT
    # ESPnet's asr.sh expects these in the recipe's folder.
    for name in db.sh scripts pyscripts steps utils; do
        ln -sfn "${ESPNET_ROOT}/egs2/TEMPLATE/asr1/${name}" "${name}"
    done
    exec bash "${ESPNET_ROOT}/egs2/TEMPLATE/asr1/asr.sh" "$@"
fi

if [ ! -f "${here}/asr_pip.sh" ]; then
    echo "$0: this copy of the recipe is neither in its project nor in an ESPnet" \
        "tree: set ESPNET_ROOT to an ESPnet checkout." >&2
    exit 2
fi
exec bash "${here}/asr_pip.sh" "$@"
