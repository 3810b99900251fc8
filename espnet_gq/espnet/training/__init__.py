"""Training: annealing, checkpoints, Lightning, the transducer loss."""
