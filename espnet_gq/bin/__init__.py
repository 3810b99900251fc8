"""Commands, one file each; the console script `espnet-gq` (`__main__.py`) runs them.

espnet-gq pack --help
python3 -m espnet_gq.bin.pack --help    the same, as ESPnet's recipes call programs
"""
