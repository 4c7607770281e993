"""loggpt-train: recorded logs in, an uncalibrated bundle and a report out."""
