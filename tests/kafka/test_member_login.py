"""What a member logs in with may be gone for a moment: it ends none that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from loggpt_stream.errors import UserError
from loggpt_stream.kafka.clients import Clients
from loggpt_stream.kafka.partition_task import Lost
from loggpt_stream.kafka.settings import KafkaSettings
from loggpt_stream.route.settings import RouteSettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "login",
    [
        {"security_protocol": "SASL_PLAINTEXT", "username": "u", "password_file": "gone"},
        {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "OAUTHBEARER", "token_file": "gone"},
        {"security_protocol": "SSL", "ca_file": "gone"},
        {"security_protocol": "SSL", "certificate_file": "gone"},
    ],
)
async def test_a_secret_or_certificate_that_cannot_be_read_now_is_tried_again_once_the_process_runs(
    login: dict[str, Any], tmp_path: Path
) -> None:
    files = {name: tmp_path / value for name, value in login.items() if value == "gone"}
    kafka = KafkaSettings(bootstrap="127.0.0.1:1", **{**login, **files})
    clients = Clients(RouteSettings(kafka=kafka))
    with pytest.raises(Lost, match=rf"kafka\..*{tmp_path / 'gone'}"):
        clients.reader()
    with pytest.raises(Lost, match=rf"kafka\..*{tmp_path / 'gone'}"):
        await clients.log_of(0).take_over()
    # At the start it is a mistake in the settings.
    with pytest.raises(UserError, match=rf"kafka\..*{tmp_path / 'gone'}"):
        kafka.client_options()
