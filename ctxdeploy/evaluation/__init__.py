"""How good a model, its codebook and the default settings are: data sets, rankings, scores and a page of failures."""
