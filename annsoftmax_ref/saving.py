"""Saving and loading a head: rows and index are brought up to date first, and whether they belong together is seen.

The hooks are functions of this file, not of the head's, so that a head can be pickled.
"""

from __future__ import annotations

from torch import nn

from annsoftmax_ref.row_parameter import row_state


def register_hooks(head: nn.Module) -> None:
    head.register_state_dict_pre_hook(_sync_first)
    head.register_load_state_dict_pre_hook(_before_loading)
    head.register_load_state_dict_post_hook(_after_loading)


def _sync_first(head: nn.Module, prefix: str, keep_vars: bool) -> None:
    head.sync()


def _before_loading(head: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    head.sync()
    head.expect_ids(state_dict, prefix)
    own = [prefix + "weight", *(f"{prefix}selector.{name}" for name in head.selector.state_dict())]
    head._loaded_whole = all(name in state_dict for name in own)


def _after_loading(head: nn.Module, _) -> None:
    """What a selector keeps of the weight is right after loading if both were loaded; else it is made anew."""
    if head._loaded_whole:
        row_state(head.weight).trust(head.weight)
    else:
        head.selector.weight_replaced()
