"""The folder of an inspection: pictures and a page of what a network sees in one photo, drawn with Pillow alone.

The numbers come from ``ctxdeploy.runtime.inspection``. From outside, ``ctxdeploy.report`` is the door.
"""
