#!/usr/bin/env bash
# Makes data/{train,dev,test_clean,test_other} from the LibriSpeech splits in the first
# that exists of
#   1. LIBRISPEECH= in the environment (a folder with train-clean-100/ etc.)
#   2. downloads/LibriSpeech in this recipe
#   3. ../shared/data/LibriSpeech next to the project
#   4. OpenSLR: the splits named in PARTS= are downloaded to downloads/
# Any subset of the splits suffices: see prepare_librispeech.py.
set -euo pipefail

here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
url=https://www.openslr.org/resources/12
parts=${PARTS:-dev-clean test-clean dev-other test-other train-clean-100 \
train-clean-360 train-other-500}

has_splits() {
    compgen -G "$1/train-*/*/*/*.trans.txt" > /dev/null
}

download() { # download DIR: fetches and unpacks ${parts} to DIR/LibriSpeech
    mkdir -p "$1"
    for part in ${parts}; do
        if [ ! -f "$1/.${part}.done" ]; then
            echo "local/data.sh: downloading ${part}"
            curl -fL -C - -o "$1/${part}.tar.gz" "${url}/${part}.tar.gz" || return 1
            tar -xzf "$1/${part}.tar.gz" -C "$1"
            rm "$1/${part}.tar.gz"
            touch "$1/.${part}.done"
        fi
    done
}

corpus=
if [ -n "${LIBRISPEECH:-}" ]; then
    for dir in "${LIBRISPEECH}" "${LIBRISPEECH}/LibriSpeech"; do
        if [ -z "${corpus}" ] && has_splits "${dir}"; then corpus=${dir}; fi
    done
    if [ -z "${corpus}" ]; then
        echo "local/data.sh: LIBRISPEECH=${LIBRISPEECH} holds no train-* split:" \
            "expected train-clean-100/SPEAKER/CHAPTER/*.trans.txt." >&2
        exit 1
    fi
else
    for dir in downloads/LibriSpeech \
        "${here}/../../../../../shared/data/LibriSpeech"; do
        if [ -z "${corpus}" ] && has_splits "${dir}"; then corpus=${dir}; fi
    done
    # An interrupted download is resumed.
    if [ -z "${corpus}" ] || compgen -G "downloads/*.tar.gz" > /dev/null; then
        download downloads || {
            echo "local/data.sh: LibriSpeech is not in downloads/LibriSpeech and" \
                "downloading it from ${url} failed: set LIBRISPEECH to its folder." >&2
            exit 1
        }
        corpus=downloads/LibriSpeech
    fi
fi

corpus=$(readlink -f "${corpus}")
echo "local/data.sh: LibriSpeech from ${corpus}"
python3 local/prepare_librispeech.py "${corpus}" data "$@"
