"""LiFT: fine-tune a model while its regularisation tunes itself, by linear programming."""
