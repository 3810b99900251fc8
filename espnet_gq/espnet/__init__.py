"""GQ inside ESPnet. Importing this package registers the quantized classes.

Registration waits until ESPnet's ASR task is imported, so that the import stays cheap
for commands that do not use it.
"""

from espnet_gq.espnet.registration import register_when_imported

register_when_imported()
