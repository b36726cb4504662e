"""From one input to model inputs, and from model outputs to its result: one file for each kind of task."""
