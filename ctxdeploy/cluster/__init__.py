"""Many machines: segments of an archive are extracted anywhere, and published into it; Ray Serve searches its parts."""
