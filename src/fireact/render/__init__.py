"""Renderers: steps to messages and tokens, and LM text back to steps; training and inference share them."""
