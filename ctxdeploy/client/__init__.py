"""Ask a ``ctxdeploy serve`` over HTTP."""
