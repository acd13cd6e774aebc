"""The subcommands of ``annsoftmax``, a file each; ``annsoftmax_ref.cli`` puts them together."""
