"""Features of samples: per-sample LoRA gradients, preconditioned, sketched and normalised."""
