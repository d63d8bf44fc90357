"""Archives on object storage: published states, the copies of them that a machine keeps, and who may commit.

What lies below a URL (``docs/formats.md``, Published archive): every file of an archive once, under the hash of its
content, and ``CURRENT``, which says of which files the archive consists. It is the only object that is ever replaced,
last and as a whole, so that nobody sees half a state.
"""
