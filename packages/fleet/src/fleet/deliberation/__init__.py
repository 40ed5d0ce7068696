"""The heart: state machines, prompts and the decision rule. Pure: no I/O, no async, no clock of its own."""
