"""ESPnet's encoders, decoders and models in quantized form."""
