"""Which pairs are good enough: cheap gates, a judge, thresholds, and how to find thresholds.

Gates (`gates`, `detectors`, `clip_gate`) measure every pair, a judge (`judge`) those that pass their bounds.
`thresholds` decides from the stored scores alone, so that a decision can be made again without any model.
`calibration` finds thresholds from what people say of a sample.
"""
