"""Training of HOW and ctx networks: from nothing by pairs, then by HOW's contrastive loss.

sets/ ─photos→ sampling ─views→ objectives ─loss→ trainer ─checkpoint→ export
"""
