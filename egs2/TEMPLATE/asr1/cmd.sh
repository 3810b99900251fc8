# shellcheck shell=bash
# Job launchers of ESPnet's asr.sh: run.pl (this machine), or slurm.pl, queue.pl, pbs.pl
# or ssh.pl, configured by conf/slurm.conf etc. asr_pip.sh always runs jobs on this
# machine.
export train_cmd="run.pl"
export cuda_cmd="run.pl"
export decode_cmd="run.pl"
