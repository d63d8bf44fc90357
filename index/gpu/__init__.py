"""Search on a GPU: the postings of an archive in its memory, and the answers of the CPU, bit by bit.

    scores.py      the loop that scores, written with numba-cuda, as are
    select.py      those that find the best photos; ``kernels.py`` compiles all
    memory.py      what of an archive lies in a GPU's memory
    batch.py       queries as the loops read them
    searcher.py    ``GpuSearcher``, which stands for ``Searcher``

Nothing else imports ``numba.cuda``, and nothing imports this package unless a search is asked for on a GPU.
"""
