"""Bytes on disk: what each file of an archive holds, how it is checked, and how it is written.

Shards and codebooks are safetensors files that we map and check ourselves: a library would copy them (twice the file in
memory) and trust their offsets. docs/formats.md describes every file.
"""
