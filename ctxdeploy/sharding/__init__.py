"""Search over shards: an archive whose shards several servers search, each a part of them.

    ShardServer     answers messages about a part of the shards, in a process that has their files
    Shards          what carries messages to the servers of all parts (``ShardTransport``)
    ShardedIndex    asks them all and puts their answers together: an index as queries see it

Bytes in, bytes out: which network carries them is decided elsewhere. What is sent is described in ``message.py``,
``requests.py`` and ``replies.py``.
"""

from typing import TYPE_CHECKING

from ctxdeploy.core.doors import door

if TYPE_CHECKING:
    from ctxdeploy.sharding.message import MAX_BYTES, MessageError
    from ctxdeploy.sharding.server import ShardServer
    from ctxdeploy.sharding.sharded_index import ShardedIndex, opening
    from ctxdeploy.sharding.shards import Shards
    from ctxdeploy.sharding.transport import ShardTransport

__all__ = ["MAX_BYTES", "MessageError", "ShardServer", "ShardTransport", "ShardedIndex", "Shards", "opening"]

_HOMES = {
    "MAX_BYTES": "message",
    "MessageError": "message",
    "ShardServer": "server",
    "ShardTransport": "transport",
    "ShardedIndex": "sharded_index",
    "Shards": "shards",
    "opening": "sharded_index",
}

__getattr__, __dir__ = door(__name__, _HOMES)
