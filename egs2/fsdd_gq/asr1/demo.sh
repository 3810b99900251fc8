#!/usr/bin/env bash
# Trains a small float Conformer and from it a 5-bit GQ version, packs that, decodes all
# of them and prints one table, in a few minutes on a CPU. `make demo` runs it.
#
# DATA=DIR names the recordings (see local/data.sh). By default ../shared/data next to
# the project is used if it exists, else the synthetic sample of this recipe. Finished
# steps are not repeated: remove demo/ to start afresh.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"
unset ESPNET_ROOT

float_config=train_asr_conformer_fsdd
gq_config=train_asr_conformer_gq_fsdd
float_epochs=12
gq_epochs=3

# ---- Data ---------------------------------------------------------------------------
if [ -n "${DATA:-}" ]; then
    corpus=$(local/data.sh --fsdd "${DATA}" --find)
    echo "Data: the recordings in ${corpus} (DATA=${DATA})"
elif corpus=$(FSDD='' local/data.sh --find 2> /dev/null); then
    echo "Data: real speech, the recordings in ${corpus}"
else
    corpus=$PWD/synthetic
    echo "Data: no recordings given or found; using the synthetic speech in ${corpus}"
fi

# Each source of data has its own folder with the layout of a recipe.
work=demo/$(cksum <<< "${corpus}" | cut -d ' ' -f 1)
mkdir -p "${work}/done"
cd "${work}"
for name in asr.sh path.sh cmd.sh run.sh conf local; do
    ln -sfn "../../${name}" "${name}"
done
echo "Work folder: ${PWD}"

# ---- Steps --------------------------------------------------------------------------
step() { # step NAME COMMAND...: runs the command unless it has succeeded before
    local name=$1
    shift
    if [ -f "done/${name}" ]; then
        echo "== ${name}: already done"
        return
    fi
    echo "== ${name}"
    "$@"
    touch "done/${name}"
}

float_exp=exp/${float_config}
gq_exp=exp/${gq_config}
float=(--asr_config "conf/${float_config}.yaml" --asr_exp "${float_exp}"
    --asr_args "--max_epoch ${float_epochs} --num_att_plot 0" --inference_tag decode)
gq=(--asr_config "conf/${gq_config}.yaml" --asr_exp "${gq_exp}"
    --asr_args "--max_epoch ${gq_epochs} --num_att_plot 0" --inference_tag decode
    --pretrained_model "${float_exp}/valid.acc.ave.pth")
packed=valid.acc.ave.packed.pth

FSDD=${corpus} step data ./run.sh "${float[@]}" --stop_stage 10
step train_float ./run.sh "${float[@]}" --stage 11 --stop_stage 11
step train_gq ./run.sh "${gq[@]}" --stage 11 --stop_stage 11
step pack python3 -m espnet_gq.bin.pack --asr_train_config "${gq_exp}/config.yaml" \
    --asr_model_file "${gq_exp}/valid.acc.ave.pth" --output "${gq_exp}/${packed}"
step decode_float ./run.sh "${float[@]}" --stage 12 --stop_stage 12
step decode_packed ./run.sh "${gq[@]}" --stage 12 --stop_stage 12 \
    --inference_asr_model "${packed}"
step decode_int8 ./run.sh "${gq[@]}" --stage 12 --stop_stage 12 \
    --inference_asr_model "${packed}" --inference_tag decode_int8 \
    --inference_args "--quantize_asr_model true"
echo
python3 -m espnet_gq.bin.compare test_clean test_noisy --json compare.json \
    --system "float Conformer" "${float_exp}/valid.acc.ave.pth" "${float_exp}/decode" \
    --system "GQ, packed" "${gq_exp}/${packed}" "${gq_exp}/decode" \
    --system "GQ, packed, int8" "${gq_exp}/${packed}" "${gq_exp}/decode_int8"
echo
echo "Data: ${corpus}. Work folder: ${PWD}. Finished in ${SECONDS} s."
