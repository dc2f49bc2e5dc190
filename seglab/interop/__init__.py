"""Other code's checkpoints: their names of tensors and seglab's, one file per format."""
