# shellcheck shell=bash
# How ESPnet's asr.sh starts its jobs: run.pl (this machine), or slurm.pl, queue.pl,
# pbs.pl or ssh.pl, set up in conf/slurm.conf and the like. asr_pip.sh always runs
# jobs on this machine.
export train_cmd="run.pl"
export cuda_cmd="run.pl"
export decode_cmd="run.pl"
