"""A small study file, of which tests replace parts."""

SMALL = """
title = "Small"
[shared]
base = "scripted:expert"
tasks = ["geo-hop"]
n = 5
[axes]
size = [4, 8]
[collect.hop]
plan = { "geo-hop/react" = 20 }
[mixtures.hop]
from = ["hop"]
[[cells]]
name = "asked"
[[cells]]
name = "{size}"
axes = ["size"]
mixture = "hop"
base = "smollm2-135m"
"""
