"""Loading a trained model and decoding with it, streaming included."""
