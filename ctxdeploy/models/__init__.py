"""Models by name: the built-in one, those that can be fetched, and the folder that keeps fetched ones.

- ``table``: what there is, with addresses and licences;
- ``finding``: a name or a path to a bundle or a checkpoint;
- ``download``, ``pulling``: an address to a file, and a file to a model;
- ``release``: a trained checkpoint and photos to a model's folder, such as ``ctx-small`` beside this file.
"""
