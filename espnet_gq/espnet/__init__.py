"""GQ inside ESPnet. Importing this package registers the quantized classes.

Registration waits until ESPnet's modules are imported, so that this import is cheap for
commands that do not need them.
"""

from espnet_gq.espnet.registration import register_when_imported

register_when_imported()
