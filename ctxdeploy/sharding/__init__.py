"""Search over shards: an archive whose shards several servers search, each a part of them."""
