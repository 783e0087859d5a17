"""Renderers: structure to messages and tokens, and LM text back to structure; training and inference share them."""
