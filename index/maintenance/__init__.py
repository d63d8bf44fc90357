"""What keeps an archive in order: compaction, merging, snapshots, garbage collection, verification and repair."""
