"""Test support: real SGLang on a machine without a GPU. See README.md one folder up.

radixkv and its adapter never import this package, and it never imports them.
"""
