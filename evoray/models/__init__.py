"""Models, tokenizers and adapters: loading, chat templates, losses, and the optimiser's moments beside an adapter."""
