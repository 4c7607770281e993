"""Calibration: a trained bundle and sessions it did not learn from → thresholds with known false-alarm rates."""
