"""Writes docs/reference from the code: settings, metrics, log events, dead letter reasons, alert fields, commands."""
