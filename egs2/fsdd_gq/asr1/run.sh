#!/usr/bin/env bash
# Float Conformer:  ./run.sh
# 5-bit GQ from it: ./run.sh --stage 11 \
#     --asr_config conf/train_asr_conformer_gq_fsdd.yaml \
#     --pretrained_model exp/asr_train_asr_conformer_fsdd_raw_en_word/valid.acc.ave.pth
set -euo pipefail

./asr.sh \
    --python "python3 -m espnet_gq" \
    --lang en \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 2 \
    --fs 8k \
    --token_type word \
    --use_lm false \
    --asr_config conf/train_asr_conformer_fsdd.yaml \
    --inference_config conf/decode_asr_fsdd.yaml \
    --train_set train \
    --valid_set dev \
    --test_sets "test_clean test_noisy" "$@"
