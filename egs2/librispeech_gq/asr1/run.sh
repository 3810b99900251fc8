#!/usr/bin/env bash
# Float Conformer:  ./run.sh
# 5-bit GQ from it: ./run.sh --stage 11 \
#     --asr_config conf/train_asr_conformer_gq.yaml \
#     --pretrained_model exp/asr_train_asr_conformer_raw_en_bpe5000/valid.acc.ave.pth
set -euo pipefail

./asr.sh \
    --python "python3 -m espnet_gq" \
    --lang en \
    --ngpu 1 \
    --nbpe 5000 \
    --max_wav_duration 30 \
    --use_lm false \
    --asr_config conf/train_asr_conformer.yaml \
    --inference_config conf/decode_asr.yaml \
    --train_set train \
    --valid_set dev \
    --test_sets "test_clean test_other" "$@"
