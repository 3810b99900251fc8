"""Commands, one file each: ``python3 -m espnet_gq.bin.<name> --help``."""
