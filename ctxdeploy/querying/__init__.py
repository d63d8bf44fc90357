"""The steps of ``query``: what is asked with, turns, verification."""
