"""ESPnet models in the file that the device engine reads: `espnet-gq export`."""

from espnet_gq.espnet.exporting.model import CannotExport, Exported, export

__all__ = ["CannotExport", "Exported", "export"]
