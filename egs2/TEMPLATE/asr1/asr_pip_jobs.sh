# Jobs of asr_pip.sh: run in parallel, stop together, report progress.
# shellcheck shell=bash
# shellcheck disable=SC2154 # run_args and die are defined in asr_pip.sh

stop_jobs() {
    local pids
    pids=$(jobs -p)
    # shellcheck disable=SC2086
    [ -z "${pids}" ] || kill ${pids} 2> /dev/null || true
}
trap stop_jobs EXIT
trap 'exit 130' INT TERM

write_atomically() { # write_atomically FILE COMMAND...: all output or no change
    local file=$1 temporary
    temporary=$(dirname "$1")/.$(basename "$1").aside
    shift
    if ! "$@" > "${temporary}" || ! mv "${temporary}" "${file}"; then
        rm -f "${temporary}"
        die "${file} could not be written."
    fi
}

resume_script() { # resume_script DIR STAGE
    mkdir -p "$1"
    write_atomically "$1/run.sh" echo "${run_args} --stage $2 \"\$@\"; exit \$?"
    chmod +x "$1/run.sh"
}

split_keys() { # split_keys FILE PARTS TARGET: writes TARGET for JOB = 1..PARTS
    local n
    for n in $(seq "$2"); do
        awk -v n="${n}" -v parts="$2" -v total="$(wc -l < "$1")" \
            'int((NR - 1) * parts / total) + 1 == n' "$1" > "${3//JOB/${n}}"
    done
}

fewest() {
    printf '%s\n' "$@" | sort -n | head -n 1
}

run_jobs() { # run_jobs NJ LOG COMMAND...: replaces JOB by the number of the job
    local jobs=$1 logs=$2 n pids=()
    shift 2
    trap stop_jobs EXIT # subshells do not inherit traps
    trap 'exit 130' INT TERM
    for n in $(seq "${jobs}"); do
        "${@//JOB/${n}}" > "${logs//JOB/${n}}" 2>&1 &
        pids+=($!)
    done
    for n in $(seq "${jobs}"); do
        if ! wait "${pids[n - 1]}"; then
            echo "asr_pip.sh: job ${n} failed; the end of ${logs//JOB/${n}}:" >&2
            tail -n 30 "${logs//JOB/${n}}" >&2
            exit 1
        fi
    done
}

show_decoding() { # show_decoding LOGDIR TOTAL: prints a counter until killed
    local count
    while sleep 10; do
        count=$(cat "$1"/asr_inference.*.log | grep -c 'best hypo:' || true)
        echo "  ${count}/$2 utterances decoded"
    done
}

show_training() { # show_training LOG PID: prints one line per epoch until PID ends
    local line train valid
    tail -n +1 --pid="$2" -F "$1" 2> /dev/null \
        | grep --line-buffered -E '[0-9]epoch results: ' \
        | while IFS= read -r line; do
            train=${line%%\[valid\]*} valid=${line#*\[valid\]}
            [[ ${line} =~ ([0-9]+)epoch\ results ]]
            echo "  epoch ${BASH_REMATCH[1]}: train $(figures "${train}" loss acc)" \
                "| valid $(figures "${valid}" loss acc cer_ctc) |" \
                "$(figures "${train}" time)"
        done
}

figures() { # figures TEXT NAME...: prints NAME=value for each NAME found in TEXT
    local text=$1 name
    shift
    for name in "$@"; do
        [[ ${text} =~ (^|[ ,])(${name}=[^,]*) ]] && printf '%s ' "${BASH_REMATCH[2]}"
    done
    true
}
