"""What ESPnet's asr.sh passes to a command is accepted there, with a quantized model.

The options are those of egs2/TEMPLATE/asr1/asr.sh in github.com/Masao-Someki/espnet,
18 October 2025 (bf0627e), with every switch on that adds one.
"""

import importlib
import shlex
import subprocess

import pytest
from tiny_task import ROOT, SECOND_TASK, Task
from untrained import task_class

from espnet_gq.nn.prepare import quantized_layers

TOKENIZER = (
    "--bpemodel data/bpe.model --token_type word --token_list {tokens} "
    "--non_linguistic_symbols none --cleaner none --g2p none"
)
TRAIN_DATA = (
    "--train_data_path_and_name_and_type dump/train/wav.scp,speech,sound "
    "--train_data_path_and_name_and_type dump/train/text,text,text "
    "--valid_data_path_and_name_and_type dump/valid/wav.scp,speech,sound "
    "--valid_data_path_and_name_and_type dump/valid/text,text,text "
    "--train_shape_file stats/train/speech_shape "
    "--train_shape_file stats/train/text_shape.word "
    "--valid_shape_file stats/valid/speech_shape "
    "--valid_shape_file stats/valid/text_shape.word "
)
COLLECT = (
    f"--collect_stats true --use_preprocessor true {TOKENIZER} {TRAIN_DATA} "
    "--config {config} --frontend_conf fs=8000 --output_dir stats/logdir/stats.1"
)
PROMPT = (
    "--train_data_path_and_name_and_type dump/train/prompt,prompt,text "
    "--valid_data_path_and_name_and_type dump/valid/prompt,prompt,text "
    "--train_shape_file stats/train/prompt_shape "
    "--valid_shape_file stats/valid/prompt_shape "
    "--use_lang_prompt false --use_nlp_prompt false "
)
TRAIN = (
    f"--use_preprocessor true {TOKENIZER} {TRAIN_DATA} --resume true "
    "--init_param exp/float/valid.acc.ave.pth --ignore_init_mismatch false "
    "--fold_length 80000 --fold_length 150 --output_dir exp/gq --config {config} "
    "--frontend_conf fs=8000 --normalize=global_mvn "
    "--normalize_conf stats_file=stats/train/feats_stats.npz --multiple_iterator true "
    "--allow_variable_data_keys True "
)
LAUNCHED = "--ngpu 2 --multiprocessing_distributed True"
DECODE = (
    "--batch_size 1 --ngpu 0 --data_path_and_name_and_type dump/test/wav.scp,speech,"
    "sound --key_file exp/logdir/keys.1.scp --asr_train_config exp/gq/config.yaml "
    "--asr_model_file exp/gq/valid.acc.ave.packed.pth --output_dir exp/logdir/output.1 "
)
LM = "--lm_train_config exp/lm/config.yaml --lm_file exp/lm/lm.pth"
WORD_LM = "--word_lm_train_config exp/lm/config.yaml --word_lm_file exp/lm/lm.pth"
COMMANDS = {
    "tokenize_text": [
        "--token_type word --input lm_train.txt --output tokens.txt --field 2- "
        "--non_linguistic_symbols none --cleaner none --g2p none --write_vocabulary "
        "true --add_nonsplit_symbol <sc>:2 --vocabulary_size 10000 "
        "--add_symbol <blank>:0 --add_symbol <unk>:1 --add_symbol <sos/eos>:-1",
        "-f 2- --input - --output - --cleaner none --token_type char "
        "--non_linguistic_symbols none --remove_non_linguistic_symbols true",
        "-f 2- --input - --output - --cleaner none --token_type bpe --bpemodel m",
    ],
    "whisper_export_vocabulary": [
        "--whisper_model whisper_en --add_token_file_name none --whisper_language en "
        "--whisper_task transcribe --sot_asr false --output tokens.txt"
    ],
    "hugging_face_export_vocabulary": ["--model_name_or_path bert --output tokens.txt"],
    "lm_train": [
        f"{TOKENIZER} --use_preprocessor true --collect_stats true "
        "--train_data_path_and_name_and_type lm_train.txt,text,text "
        "--valid_data_path_and_name_and_type dev.txt,text,text "
        "--train_shape_file train.1.scp --valid_shape_file dev.1.scp --output_dir out",
        f"{TOKENIZER} --use_preprocessor true --ngpu 1 --resume true --output_dir exp "
        "--train_data_path_and_name_and_type lm_train.txt,text,text "
        "--valid_data_path_and_name_and_type dev.txt,text,text --fold_length 150 "
        "--train_shape_file train/text_shape.word --multiple_iterator true "
        "--valid_shape_file valid/text_shape.word",
    ],
    "lm_calc_perplexity": [
        "--ngpu 1 --data_path_and_name_and_type test.txt,text,text --train_config "
        "exp/lm/config.yaml --model_file exp/lm/lm.pth --output_dir ppl"
    ],
    "aggregate_stats_dirs": [
        "--input_dir stats.1 --input_dir stats.2 --skip_sum_stats --output_dir stats"
    ],
    "split_scps": ["--scps a b c --num_splits 2 --output_dir splits2"],
    "launch": [
        "--cmd 'slurm.pl --name exp/train.log' --log exp/train.log --ngpu 2 "
        "--num_nodes 2 --init_file_prefix exp/.dist_init_ "
        "--multiprocessing_distributed true -- "
        "python3 -m espnet_gq -m espnet2.bin.asr_train --config {config}"
    ],
    "asr_train": [COLLECT, f"{TRAIN} {PROMPT} {LAUNCHED}", f"{TRAIN} --input_size=9"],
    "asr_transducer_train": [COLLECT, f"{TRAIN} {LAUNCHED}"],
    "asr_inference": [
        f"{DECODE} {LM}",
        f"{DECODE} {WORD_LM} --ngram_file 3gram.bin --config {{decoding}}",
    ],
    # ESPnet's own does not take the --ngram_file that asr.sh would add.
    "asr_inference_streaming": [f"{DECODE} {LM}", f"{DECODE} {WORD_LM}"],
    "asr_inference_maskctc": [DECODE],
    "asr_transducer_inference": [f"{DECODE} {LM}"],
    "pack": [
        "asr --asr_train_config exp/gq/config.yaml --asr_model_file exp/gq/packed.pth "
        f"{LM} "
        "--option exp/lm/perplexity_test/ppl --option exp/lm/images --option bpe.model "
        "--option exp/gq/RESULTS.md --option exp/gq/images --outpath exp/gq/gq.zip"
    ],
}
"""Commands of espnet2.bin and the options they are given, by stage in asr.sh."""

OWN = {"asr_inference_streaming": "espnet_gq.bin.asr_inference_streaming"}
"""Commands that have a counterpart here, which takes the same options."""

NAMES = """
asr_args asr_config asr_exp asr_speech_fold_length asr_stats_dir asr_tag asr_task
asr_text_fold_length audio_format auxiliary_data_tags batch_size blank bpe_char_cover
bpe_input_sentence_size bpe_nlsyms bpe_train_text bpemode cleaner download_model dumpdir
eval_valid_set expdir feats_normalize feats_type fs g2p gpu_inference hf_repo
hugging_face_model_name_or_path hyp_cleaner ignore_init_mismatch inference_args
inference_asr_model inference_config inference_lm inference_ngram inference_nj
inference_tag k2_config k2_ctc_decoding lang lm_args lm_config lm_dev_text lm_exp
lm_fold_length lm_stats_dir lm_tag lm_test_text lm_train_text local_data_opts
local_score_opts max_wav_duration min_wav_duration multi_columns_input_wav_scp
multi_columns_output_wav_scp nbpe ngpu ngram_exp ngram_num nj nll_batch_size nlsyms_txt
num_inf num_nodes num_paths num_ref num_splits_asr num_splits_lm oov
post_process_local_data_opts pretrained_model python score_opts skip_data_prep skip_eval
skip_packing skip_stages skip_train skip_upload_hf sos_eos sot_asr speed_perturb_factors
stage stop_stage test_sets token_type train_set use_k2 use_lang_prompt use_lightning
use_lm use_maskctc use_nbest_rescoring use_ngram use_nlp_prompt use_prompt use_streaming
use_word_lm valid_set word_vocab_size
""".split()
"""Options of asr.sh itself."""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    task = Task(tmp_path_factory.mktemp("options"), train=1, valid=1)
    return {
        "tokens": task.path / "tokens.txt",
        "decoding": ROOT / "conf" / "decode_asr.yaml",
        "asr": task.config("asr.yaml"),
        "asr_transducer": task.config("asr_transducer.yaml", **SECOND_TASK),
    }


def parse(module, options, files, task="asr"):
    """Return what a command reads from its options."""
    options = options.format(config=files[task], **files)
    parser = importlib.import_module(module).get_parser()
    return parser.parse_args(shlex.split(options))


@pytest.mark.parametrize("command", [*COMMANDS])
def test_every_option_is_accepted(command, files):
    task = "asr_transducer" if "transducer" in command else "asr"
    for options in COMMANDS[command]:
        for module in {f"espnet2.bin.{command}", OWN.get(command)} - {None}:
            parse(module, options, files, task)


@pytest.mark.parametrize("task", ["asr", "asr_transducer"])
def test_the_quantized_model_starts_from_the_float_one(task, files):
    cls = task_class(task)
    options = f"{TRAIN} {LAUNCHED}"
    options = shlex.split(options.format(config=files[task], **files))
    args = cls.get_parser().parse_args(options)
    assert args.init_param == ["exp/float/valid.acc.ave.pth"]
    args.normalize = None  # the statistics are not there
    cls.check_required_command_args(args)
    assert any(True for _ in quantized_layers(cls.build_model(args)))


def test_lightning_takes_the_same_options(files):
    pytest.importorskip("lightning", reason="lightning is not installed")
    from espnet2.bin.lightning_train import get_parser
    from espnet2.tasks.asr import ASRTask

    config = files["asr"].with_name("lightning.yaml")
    text = files["asr"].read_text()
    config.write_text(f"{text}\nlightning_conf: {{max_epochs: 3, devices: 9}}\n")
    options = shlex.split(TRAIN.format(config=config, **files))
    # asr.sh gives these; the rest comes from the configuration.
    conf = "{devices: 1, num_nodes: 1, default_root_dir: e}"
    args = get_parser(ASRTask).parse_args([*options, "--lightning_conf", conf])
    expected = {"max_epochs": 3, "devices": 1, "num_nodes": 1, "default_root_dir": "e"}
    assert args.lightning_conf == expected


def driver(*options):
    folder = ROOT / "egs2" / "fsdd_gq" / "asr1"
    command = ["bash", str(ROOT / "egs2/TEMPLATE/asr1/asr_pip.sh"), *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_driver_takes_or_names_every_option_of_asr_sh():
    refused = []
    for name in NAMES:
        done = driver(f"--{name}", "true", "--help")
        if done.returncode:
            assert (
                f"option --{name} needs ESPnet's recipe scripts" in done.stderr
            ), done.stderr
            assert len(done.stderr.splitlines()) == 1
            refused.append(name)
    assert 0 < len(refused) < 30
