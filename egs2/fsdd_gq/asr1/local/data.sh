#!/usr/bin/env bash
# Makes data/{train,dev,test_clean,test_noisy} by joining recordings of single spoken
# digits (see join_digits.py). The recordings are those of the first that exists of
#   1. --fsdd DIR, or FSDD= or DATA= in the environment
#   2. downloads/ in this recipe
#   3. ../shared/data next to the project
# where DIR is the Free Spoken Digit Dataset (recordings/0_george_0.wav ...), a folder
# that contains it as fsdd/, or a folder of single digits in LibriSpeech layout.
# --find only prints the folder that is used. Other options are for join_digits.py.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
fsdd=${FSDD:-${DATA:-}}
if [ "${1:-}" = --fsdd ]; then
    fsdd=${2:?--fsdd needs a folder}
    shift 2
fi

has_digits() {
    compgen -G "$1/recordings/[0-9]_*_*.wav" > /dev/null \
        || compgen -G "$1/[0-9]_*_*.wav" > /dev/null \
        || compgen -G "$1/train/*/*/*.trans.txt" > /dev/null
}

corpus=
for dir in ${fsdd:+"${fsdd}"} downloads "${here}/../../../../../shared/data"; do
    for candidate in "${dir}" "${dir}/fsdd" "${dir}/free-spoken-digit-dataset"; do
        if [ -z "${corpus}" ] && has_digits "${candidate}"; then
            corpus=$(readlink -f "${candidate}")
        fi
    done
    [ "${dir}" != "${fsdd}" ] || [ -n "${corpus}" ] || break # no silent fallback
done
if [ -z "${corpus}" ]; then
    echo "local/data.sh: no spoken digits found${fsdd:+ in ${fsdd}}: set FSDD to a" \
        "checkout of https://github.com/Jakobovski/free-spoken-digit-dataset, or put" \
        "one into downloads/." >&2
    exit 1
fi

if [ "${1:-}" = --find ]; then
    echo "${corpus}"
    exit 0
fi
echo "local/data.sh: recordings from ${corpus}"
mkdir -p data
python3 local/join_digits.py "${corpus}" data "$@"
