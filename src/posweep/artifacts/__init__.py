"""What all trials of a sweep share, made once and found by fingerprint: SFT policy, pairs, reference, baselines, judges."""
