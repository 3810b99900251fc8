#!/usr/bin/env bash
# A small driver for recipes that needs only the pip packages. It has the options, stage
# numbers and directories of ESPnet's asr.sh, for stages 1, 3, 4, 5 and 10 to 15. Run it
# through asr.sh, from a recipe folder.
# shellcheck disable=SC2154 # the options are set from the table below
set -euo pipefail

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (asr_pip.sh) $*"
}
die() {
    echo "asr_pip.sh: $*" >&2
    exit 2
}
needs_espnet() {
    die "$* needs ESPnet's recipe scripts, which pip does not install:" \
        "set ESPNET_ROOT to a checkout of https://github.com/espnet/espnet."
}

# nproc prints at most OMP_NUM_THREADS if that is set.
cpus=$(env -u OMP_NUM_THREADS nproc)
training_threads=${OMP_NUM_THREADS:-${cpus}}

# name=default  # help
options="
stage=1  # first stage
stop_stage=10000  # last stage
skip_stages=  # stages to leave out, separated by spaces
skip_data_prep=false  # leave out stages 1-5
skip_train=false  # leave out stages 4, 5, 10 and 11
skip_eval=false  # leave out stages 12 and 13
skip_packing=true  # leave out stage 14
skip_upload_hf=true  # leave out stage 15
eval_valid_set=false  # decode and score the validation set, too
ngpu=1  # GPUs for training, 0 for CPU
num_nodes=1
nj=${cpus}  # parallel jobs
inference_nj=${cpus}  # parallel jobs in decoding
gpu_inference=false  # decode on GPU
dumpdir=dump  # formatted data
expdir=exp  # experiments
python=python3 -m espnet_gq  # runs every ESPnet command
local_data_opts=  # options for local/data.sh
speed_perturb_factors=  # stage 2 needs ESPNET_ROOT
feats_type=raw
audio_format=flac  # flac or wav
fs=16k  # sampling rate
min_wav_duration=0.1  # seconds, training and validation sets
max_wav_duration=20  # seconds, training and validation sets
token_type=bpe  # bpe, char or word
nbpe=30  # size of the BPE vocabulary
bpemode=unigram  # unigram or bpe
oov=<unk>
blank=<blank>
sos_eos=<sos/eos>
bpe_input_sentence_size=100000000
bpe_nlsyms=  # symbols that BPE does not split, separated by commas
bpe_char_cover=1.0
bpe_train_text=  # default: the training set's
use_lm=false  # stages 6-8 need ESPNET_ROOT
use_ngram=false  # stage 9 needs ESPNET_ROOT
use_word_lm=false
lm_config=
lm_args=
lm_tag=
lm_exp=
lm_train_text=  # text of char and word token lists; default: the training set's
lm_dev_text=
lm_test_text=
asr_task=asr  # asr or asr_transducer (ESPnet's second transducer task)
asr_tag=  # suffix of the experiment's folder
asr_exp=  # the experiment's folder
asr_stats_dir=  # folder of the statistics of stage 10
asr_config=  # training configuration
asr_args=  # training options, override asr_config
pretrained_model=  # checkpoint to start from (--init_param)
ignore_init_mismatch=false
feats_normalize=global_mvn  # global_mvn or utterance_mvn
num_splits_asr=1
num_ref=1
use_lightning=false
hf_repo=  # user/model, the repository of the Hugging Face hub for stage 15
use_k2=false
use_maskctc=false
use_streaming=false  # decode chunk by chunk (asr_inference_streaming)
batch_size=1  # utterances per decoding batch
inference_tag=  # folder of the decoded text, below the experiment
inference_config=  # decoding configuration
inference_args=  # decoding options, override inference_config
inference_lm=
inference_asr_model=valid.acc.ave.pth  # checkpoint to decode, below the experiment
download_model=
train_set=
valid_set=
test_sets=
nlsyms_txt=none  # non-linguistic symbols
cleaner=none  # text cleaner
hyp_cleaner=none
g2p=none
lang=noinfo  # language
score_opts=  # options for sclite
asr_speech_fold_length=800
asr_text_fold_length=150
"

# Options of ESPnet's asr.sh for features that this driver does not have.
elsewhere=" auxiliary_data_tags hugging_face_model_name_or_path inference_ngram k2_config
k2_ctc_decoding lm_fold_length lm_stats_dir local_score_opts multi_columns_input_wav_scp
multi_columns_output_wav_scp ngram_exp ngram_num nll_batch_size num_inf num_paths
num_splits_lm post_process_local_data_opts sot_asr use_lang_prompt use_nbest_rescoring
use_nlp_prompt use_prompt word_vocab_size "

declare -A known
while IFS= read -r line; do
    [ -n "${line}" ] || continue
    name=${line%%=*} value=${line#*=}
    value=${value%%  #*}
    known[${name}]=${value}
    printf -v "${name}" '%s' "${value}"
done <<< "${options}"

show_help() {
    echo "Usage: $0 --train_set NAME --valid_set NAME --test_sets \"NAMES\" [options]"
    echo "Stages 1, 3, 4, 5 and 10-15 of ESPnet's asr.sh (name=default  # help):"
    echo "${options}" | sed -n 's/^./  --&/p'
}

run_args=$(printf '%q ' ./asr.sh "$@")
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            show_help
            exit 0
            ;;
        --*) ;;
        *) die "'$1' is not an option; options are --name value." ;;
    esac
    name=${1#--}
    name=${name//-/_}
    [[ ${elsewhere//$'\n'/ } != *" ${name} "* ]] || needs_espnet "option $1"
    [[ ${name} =~ ^[a-z_0-9]+$ && -v known[${name}] ]] \
        || die "unknown option $1; --help lists the options of this driver," \
            "and ESPNET_ROOT selects ESPnet's own asr.sh with all options."
    [ $# -ge 2 ] || die "option $1 lacks a value."
    if [[ ${known[${name}]} =~ ^(true|false)$ && ! $2 =~ ^(true|false)$ ]]; then
        die "$1 is true or false, not '$2'."
    fi
    printf -v "${name}" '%s' "$2"
    shift 2
done

# shellcheck disable=SC1091
. ./path.sh

# ---- Unsupported options ------------------------------------------------------------
[ -z "${speed_perturb_factors}" ] || needs_espnet "speed perturbation (stage 2)"
"${use_lm}" && needs_espnet "a language model (stages 6-8, --use_lm true)"
"${use_ngram}" && needs_espnet "an n-gram language model (stage 9, --use_ngram true)"
for setting in feats_type=raw num_nodes=1 num_ref=1 num_splits_asr=1 \
    use_word_lm=false use_lightning=false use_k2=false use_maskctc=false \
    download_model=; do
    name=${setting%%=*}
    [ "${!name}" = "${setting#*=}" ] || needs_espnet "--${name} ${!name}"
done
[[ ${asr_task} =~ ^(asr|asr_transducer)$ ]] \
    || die "--asr_task is '${asr_task}'; allowed: asr, asr_transducer."
if "${use_streaming}" && [ "${asr_task}" != asr ]; then
    die "--use_streaming true needs --asr_task asr;" \
        "for the other task, set 'streaming: true' in --inference_config."
fi
[[ ${token_type} =~ ^(bpe|char|word)$ ]] || needs_espnet "--token_type ${token_type}"
[[ ${audio_format} =~ ^(flac|wav)$ ]] || needs_espnet "--audio_format ${audio_format}"

has_stage=false
for n in 1 3 4 5 10 11 12 13 14 15; do
    [ "${stage}" -le "${n}" ] && [ "${stop_stage}" -ge "${n}" ] && has_stage=true
done
"${has_stage}" || needs_espnet "stage ${stage}"

# ---- Arguments ----------------------------------------------------------------------
if ! "${skip_train}"; then
    [ -n "${train_set}" ] || die "--train_set is required."
    [ -n "${valid_set}" ] || die "--valid_set is required."
    [ "${train_set}" != "${valid_set}" ] \
        || die "--train_set and --valid_set must differ; both are ${train_set}."
fi
sets=
for dset in ${test_sets}; do
    [ "${dset}" != "${train_set}" ] \
        || die "--test_sets must not contain the training set ${dset}."
    if [ "${dset}" = "${valid_set}" ]; then
        eval_valid_set=true
    elif [[ " ${sets} " != *" ${dset} "* ]]; then
        sets+="${dset} "
    fi
done
test_sets=${sets}
"${eval_valid_set}" || [ -n "${test_sets}" ] || die "--test_sets is required."
eval_sets=${test_sets}
"${eval_valid_set}" && eval_sets="org/${valid_set} ${test_sets}"

# ESPnet commands run under ${run}. This project's commands run under ${tool}: they do
# not need the registered classes and start faster without them.
read -r -a run <<< "${python}"
tool=("${run[0]}")

# ---- Names of files and folders, as in ESPnet ---------------------------------------
data_feats=${dumpdir}/raw
suffix=${token_type}
[ "${token_type}" = bpe ] && suffix+=${nbpe}
token_listdir=data/token_list
if [ "${lang}" != noinfo ]; then
    token_listdir=data/${lang}_token_list
    suffix=${lang}_${suffix}
fi
if [ "${token_type}" = bpe ]; then
    bpedir=${token_listdir}/bpe_${bpemode}${nbpe}
    bpemodel=${bpedir}/bpe.model
    token_list=${bpedir}/tokens.txt
else
    bpemodel=none
    token_list=${token_listdir}/${token_type}/tokens.txt
fi
if [ -z "${asr_tag}" ]; then
    asr_tag=train
    [ -n "${asr_config}" ] && asr_tag=$(basename "${asr_config}" .yaml)
    asr_tag+=_${feats_type}_${suffix}
    asr_tag+=$(sed -e 's/--/_/g' -e 's/[ |=/]//g' <<< "${asr_args}")
fi
: "${asr_stats_dir:=${expdir}/asr_stats_${feats_type}_${suffix}}"
: "${asr_exp:=${expdir}/asr_${asr_tag}}"
: "${bpe_train_text:=${data_feats}/org/${train_set}/text}"
: "${lm_train_text:=${data_feats}/org/${train_set}/text}"
if [ -z "${inference_tag}" ]; then
    inference_tag=inference
    [ -n "${inference_config}" ] && inference_tag=$(basename "${inference_config}" .yaml)
    inference_tag+=$(sed -e 's/--/_/g' -e 's/[ |=]//g' <<< "${inference_args}")
    model_tag=${inference_asr_model//\//_}
    inference_tag+=_asr_model_${model_tag%.*}
fi

# ---- Selection of stages ------------------------------------------------------------
"${skip_data_prep}" && skip_stages+=" 1 3 4 5"
"${skip_train}" && skip_stages+=" 4 5 10 11"
"${skip_eval}" && skip_stages+=" 12 13"
"${skip_packing}" && skip_stages+=" 14"
"${skip_upload_hf}" && skip_stages+=" 15"

runs() { # runs N: succeeds if stage N is selected
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] \
        && [[ " ${skip_stages} " != *" $1 "* ]]
}

if runs 15 && [[ ! ${hf_repo} =~ ^[^/]+/[^/]+$ ]]; then
    die "--hf_repo is '${hf_repo}'; stage 15 needs user/model, a repository of the" \
        "Hugging Face hub."
fi

# ---- Stages -------------------------------------------------------------------------
# shellcheck source=asr_pip_jobs.sh
. "$(dirname "$0")/asr_pip_jobs.sh"

train_options() { # options of stages 10 and 11, one per line
    [ -z "${asr_config}" ] || printf '%s\n' --config "${asr_config}"
    printf '%s\n' --use_preprocessor true --bpemodel "${bpemodel}" \
        --token_type "${token_type}" --token_list "${token_list}" \
        --non_linguistic_symbols "${nlsyms_txt}" --cleaner "${cleaner}" --g2p "${g2p}" \
        --frontend_conf "fs=${fs}"
    local side
    for side in train="${train_set}" valid="${valid_set}"; do
        printf '%s\n' \
            "--${side%%=*}_data_path_and_name_and_type" \
            "${data_feats}/${side#*=}/wav.scp,speech,sound" \
            "--${side%%=*}_data_path_and_name_and_type" \
            "${data_feats}/${side#*=}/text,text,text"
    done
}

if runs 1; then
    log "Stage 1: data preparation for data/${train_set}, data/${valid_set}, ${test_sets}"
    # shellcheck disable=SC2086
    local/data.sh ${local_data_opts}
fi

if runs 3; then
    log "Stage 3: format wav.scp: data/ -> ${data_feats}"
    dirs=()
    if ! "${skip_train}"; then
        dirs+=(--dir "data/${train_set}" "${data_feats}/org/${train_set}")
    fi
    if ! "${skip_train}" || "${eval_valid_set}"; then
        dirs+=(--dir "data/${valid_set}" "${data_feats}/org/${valid_set}")
    fi
    for dset in ${test_sets}; do
        dirs+=(--dir "data/${dset}" "${data_feats}/${dset}")
    done
    "${tool[@]}" -m espnet_gq.bin.format_wav_scp "${dirs[@]}" \
        --fs "${fs}" --audio_format "${audio_format}" --nj "${nj}"
fi

if runs 4; then
    log "Stage 4: remove long and short utterances: ${data_feats}/org -> ${data_feats}"
    "${tool[@]}" -m espnet_gq.bin.filter_data_dir --fs "${fs}" \
        --dir "${data_feats}/org/${train_set}" "${data_feats}/${train_set}" \
        --dir "${data_feats}/org/${valid_set}" "${data_feats}/${valid_set}" \
        --min_wav_duration "${min_wav_duration}" \
        --max_wav_duration "${max_wav_duration}"
    # shellcheck disable=SC2086
    write_atomically "${data_feats}/lm_train.txt" awk 'NF > 1' ${lm_train_text}
fi

if runs 5; then
    if [ "${token_type}" = bpe ]; then
        log "Stage 5: token list from ${bpe_train_text} with BPE"
        # shellcheck disable=SC2086
        "${tool[@]}" -m espnet_gq.bin.token_list ${bpe_train_text} \
            --dir "${bpedir}" --nbpe "${nbpe}" --bpemode "${bpemode}" \
            --bpe_input_sentence_size "${bpe_input_sentence_size}" \
            --bpe_char_cover "${bpe_char_cover}" --bpe_nlsyms "${bpe_nlsyms}" \
            --blank "${blank}" --oov "${oov}" --sos_eos "${sos_eos}"
    else
        log "Stage 5: token list (${token_type}) from ${lm_train_text}"
        mkdir -p "${token_list%/*}"
        written=${token_list%/*}/.tokens.aside
        run_jobs 1 "${token_list%/*}/tokenize_text.log" \
            "${tool[@]}" -m espnet2.bin.tokenize_text --token_type "${token_type}" \
            --input "${data_feats}/lm_train.txt" --output "${written}" --field 2- \
            --non_linguistic_symbols "${nlsyms_txt}" --cleaner "${cleaner}" \
            --g2p "${g2p}" --write_vocabulary true --add_symbol "${blank}:0" \
            --add_symbol "${oov}:1" --add_symbol "${sos_eos}:-1"
        mv "${written}" "${token_list}"
    fi
fi

if runs 10; then
    log "Stage 10: collect statistics: ${asr_stats_dir}"
    logdir=${asr_stats_dir}/logdir
    resume_script "${asr_stats_dir}" 10
    mkdir -p "${logdir}"
    train_scp=${data_feats}/${train_set}/wav.scp
    valid_scp=${data_feats}/${valid_set}/wav.scp
    n=$(fewest "${nj}" "$(wc -l < "${train_scp}")" "$(wc -l < "${valid_scp}")")
    split_keys "${train_scp}" "${n}" "${logdir}/train.JOB.scp"
    split_keys "${valid_scp}" "${n}" "${logdir}/valid.JOB.scp"
    mapfile -t opts < <(train_options)
    # shellcheck disable=SC2086
    run_jobs "${n}" "${logdir}/stats.JOB.log" \
        "${run[@]}" -m "espnet2.bin.${asr_task}_train" \
        --collect_stats true --ngpu 0 "${opts[@]}" \
        --train_shape_file "${logdir}/train.JOB.scp" \
        --valid_shape_file "${logdir}/valid.JOB.scp" \
        --output_dir "${logdir}/stats.JOB" ${asr_args}
    opts=()
    for i in $(seq "${n}"); do
        opts+=(--input_dir "${logdir}/stats.${i}")
    done
    [ "${feats_normalize}" = global_mvn ] || opts+=(--skip_sum_stats)
    run_jobs 1 "${logdir}/aggregate.log" "${tool[@]}" \
        -m espnet2.bin.aggregate_stats_dirs "${opts[@]}" --output_dir "${logdir}/all"
    for side in train valid; do
        mkdir -p "${asr_stats_dir}/${side}"
        mv "${logdir}/all/${side}"/* "${asr_stats_dir}/${side}"
        # shellcheck disable=SC2016
        write_atomically "${asr_stats_dir}/${side}/text_shape.${token_type}" \
            awk -v n="$(wc -l < "${token_list}")" '{ print $0 "," n }' \
            "${asr_stats_dir}/${side}/text_shape"
    done
fi

if runs 11; then
    log "Stage 11: training: ${asr_exp}, log: ${asr_exp}/train.log"
    resume_script "${asr_exp}" 11
    mapfile -t opts < <(train_options)
    [ "${feats_normalize}" != global_mvn ] || opts+=(--normalize global_mvn
        --normalize_conf "stats_file=${asr_stats_dir}/train/feats_stats.npz")
    [ -z "${pretrained_model}" ] || opts+=(--init_param "${pretrained_model}")
    for side in train valid; do
        opts+=("--${side}_shape_file" "${asr_stats_dir}/${side}/speech_shape"
            "--${side}_shape_file" "${asr_stats_dir}/${side}/text_shape.${token_type}")
    done
    if [ -f "${asr_exp}/train.log" ]; then # keep the log of an interrupted training
        n=1
        while [ -f "${asr_exp}/train.${n}.log" ]; do n=$((n + 1)); done
        mv "${asr_exp}/train.log" "${asr_exp}/train.${n}.log"
    fi
    # On the CPU only one process trains, so it may use all cores.
    threads=${OMP_NUM_THREADS}
    [ "${ngpu}" -gt 0 ] || threads=${training_threads}
    # shellcheck disable=SC2086
    OMP_NUM_THREADS=${threads} run_jobs 1 "${asr_exp}/train.log" \
        "${run[@]}" -m "espnet2.bin.${asr_task}_train" \
        --ngpu "${ngpu}" --multiprocessing_distributed true "${opts[@]}" \
        --resume true --ignore_init_mismatch "${ignore_init_mismatch}" \
        --fold_length "$((asr_speech_fold_length * 100))" \
        --fold_length "${asr_text_fold_length}" \
        --output_dir "${asr_exp}" ${asr_args} &
    training=$!
    show_training "${asr_exp}/train.log" "${training}" &
    follower=$!
    wait "${training}" || exit 1
    wait "${follower}" || true
fi

if runs 12; then
    log "Stage 12: decoding: ${asr_exp}/${inference_asr_model}"
    resume_script "${asr_exp}/${inference_tag}" 12
    ngpu_inference=0
    "${gpu_inference}" && ngpu_inference=1
    module=espnet2.bin.${asr_task}_inference
    if "${use_streaming}"; then
        module=espnet_gq.bin.asr_inference_streaming # ESPnet's, plus LSTMs
    fi
    opts=(--batch_size "${batch_size}" --ngpu "${ngpu_inference}")
    [ -z "${inference_config}" ] || opts+=(--config "${inference_config}")
    for dset in ${eval_sets}; do
        dir=${asr_exp}/${inference_tag}/${dset}
        logdir=${dir}/logdir
        scp=${data_feats}/${dset}/wav.scp
        rm -rf "${logdir}"
        mkdir -p "${logdir}"
        total=$(wc -l < "${scp}")
        n=$(fewest "${inference_nj}" "${total}")
        split_keys "${scp}" "${n}" "${logdir}/keys.JOB.scp"
        log "${dset}: ${total} utterances, log: ${logdir}/asr_inference.*.log"
        # shellcheck disable=SC2086
        run_jobs "${n}" "${logdir}/asr_inference.JOB.log" "${run[@]}" -m "${module}" \
            "${opts[@]}" --data_path_and_name_and_type "${scp},speech,sound" \
            --key_file "${logdir}/keys.JOB.scp" \
            --asr_train_config "${asr_exp}/config.yaml" \
            --asr_model_file "${asr_exp}/${inference_asr_model}" \
            --output_dir "${logdir}/output.JOB" ${inference_args} &
        decoding=$!
        show_decoding "${logdir}" "${total}" &
        follower=$!
        wait "${decoding}" || exit 1
        kill "${follower}" 2> /dev/null || true
        for file in token token_int score text; do
            if [ -f "${logdir}/output.1/1best_recog/${file}" ]; then
                write_atomically "${dir}/${file}" \
                    sort -k1 "${logdir}"/output.*/1best_recog/"${file}"
            fi
        done
    done
fi

if runs 13; then
    log "Stage 13: scoring"
    # shellcheck disable=SC2086
    "${tool[@]}" -m espnet_gq.bin.score ${eval_sets} --asr_exp "${asr_exp}" \
        --inference_tag "${inference_tag}" --data_feats "${data_feats}" \
        --bpemodel "${bpemodel}" --score_opts "${score_opts}"
fi

if runs 14 || runs 15; then # quantized models are shared packed
    model_to_share=${inference_asr_model}
    if grep -q 'gq_conf:' "${asr_exp}/config.yaml" \
        && [[ ${model_to_share} != *.packed.pth ]]; then
        model_to_share=${model_to_share%.pth}.packed.pth
    fi
    packed_model=${asr_exp}/${asr_exp##*/}_${model_to_share%.*}.zip
fi

if runs 14; then
    if [ "${model_to_share}" != "${inference_asr_model}" ]; then
        log "Stage 14: bit-pack: ${asr_exp}/${model_to_share}"
        "${tool[@]}" -m espnet_gq.bin.pack --asr_train_config "${asr_exp}/config.yaml" \
            --asr_model_file "${asr_exp}/${inference_asr_model}" \
            --output "${asr_exp}/${model_to_share}"
    fi
    log "Stage 14: pack model: ${packed_model}"
    opts=()
    for file in "${asr_exp}/RESULTS.md" "${asr_exp}/images"; do
        [ ! -e "${file}" ] || opts+=(--option "${file}")
    done
    "${tool[@]}" -m espnet_gq.bin.zip_model --outpath "${packed_model}" \
        --asr_train_config "${asr_exp}/config.yaml" \
        --asr_model_file "${asr_exp}/${model_to_share}" "${opts[@]}" --lang "${lang}"
fi

if runs 15; then
    [ -f "${packed_model}" ] \
        || die "${packed_model} does not exist: run stage 14 (--skip_packing false)."
    log "Stage 15: upload model to the Hugging Face hub: ${hf_repo}"
    "${tool[@]}" -m espnet_gq.bin.upload_model "${packed_model}" \
        --hf_repo "${hf_repo}" --expdir "${expdir}" --lang "${lang}"
fi

log "Finished in ${SECONDS} s"
