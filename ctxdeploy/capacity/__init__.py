"""How many hours, bytes and machines an archive will take: from figures of this machine, before the work is done."""
