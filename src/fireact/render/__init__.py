"""Renderers: steps to messages and tokens, and LM text back to steps; training and inference share them."""

from fireact.base.rooms import make_room_callable

make_room_callable(__name__)
