"""loggpt-stream: sessions of OpenStack log lines, scored by a small GPT, alerts to Kafka."""

__version__ = "0.2.0.dev0"
