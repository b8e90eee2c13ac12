"""A language model seen as π(y|x): load, score, sample, train."""
