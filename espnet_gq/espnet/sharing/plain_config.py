"""A training configuration without the plugin, for a hardened float model."""

from typing import Any, Dict, Mapping

PREFIX = "gq_"
PARTS = ("encoder", "decoder", "model")


def plain_config(config: Mapping[str, Any]) -> Dict[str, Any]:
    """Return an ESPnet training configuration with float classes.

    `encoder: gq_conformer` becomes `encoder: conformer`, and so on for decoder and
    model, and `gq_conf` is removed. Nothing else changes.

    Args:
        config: Contents of the config.yaml of a training.
    """
    plain = dict(config)
    for part in PARTS:
        name = plain.get(part)
        if isinstance(name, str) and name.lower().startswith(PREFIX):
            plain[part] = name.lower()[len(PREFIX) :]
        conf = plain.get(f"{part}_conf")
        if isinstance(conf, Mapping):
            plain[f"{part}_conf"] = {k: v for k, v in conf.items() if k != "gq_conf"}
    return plain
