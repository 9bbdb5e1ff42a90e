"""Fine-tuning: the warm-up of a proxy and one rank's loop under DeepSpeed."""
