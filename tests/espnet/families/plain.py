"""Decodes with float.zip, as plain ESPnet does: this process never sees the plugin.

    python -m tests.espnet.families.plain CACHE

Reads jobs from standard input, one JSON object per line: {"path", "inference", "task",
"rate", "options"}; writes one JSON object per job: the result, or {"error"}.
"""

import json
import os
import sys
import traceback
import types

from espnet_model_zoo.downloader import ModelDownloader

from tests.espnet.families.decoding import decode, inference_class
from tests.espnet.families.local import register

# ESPnet imports the loss of transducers to build their models; decoding uses none.
loss = types.ModuleType("warprnnt_pytorch")
setattr(loss, "RNNTLoss", lambda **_: None)
sys.modules.setdefault(loss.__name__, loss)


def work(job, downloader):
    """Return the result of a job."""
    register(job["assets"])
    files = downloader.download_and_unpack(job["path"])
    speech2text = inference_class(job["inference"])(**files, **job["options"])
    return decode(speech2text, job["task"], job["rate"])


def main(cache: str) -> None:
    """Answer jobs until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # ESPnet and its libraries print
    downloader = ModelDownloader(cache)
    for line in sys.stdin:
        try:
            answer = work(json.loads(line), downloader)
        except Exception:
            answer = {"error": traceback.format_exc()}
        if any(name.split(".")[0] == "espnet_gq" for name in sys.modules):
            answer = {"error": "the plugin was imported"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
