"""The h2 library's connection as this edge uses it: with our field compression, without its checks of fields, and with less
memory of what is over. `connection` makes one, and is the only one to feed it.
"""

from __future__ import annotations

from typing import Final, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hpack import Encoder

from edgecache.serve.http2.hpack import FieldDecoder, FieldEncoder
from edgecache.serve.settings import ServeSettings

_CLOSED_STREAMS: Final = 1000
"""How many closed streams it remembers, for frames that were on their way."""
_FIRST_WINDOW: Final = 65_535


class States(H2Connection):
    """Streams and windows of one connection of a client."""

    MAX_CLOSED_STREAMS = _CLOSED_STREAMS

    def __init__(self, settings: ServeSettings) -> None:
        # What the library would check of fields ends the connection; `fields` checks more, and ends the stream.
        config = H2Configuration(
            client_side=False,
            header_encoding=None,
            validate_inbound_headers=False,
            normalize_inbound_headers=False,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        super().__init__(config)
        said = {SettingCodes.MAX_HEADER_LIST_SIZE: settings.max_head_bytes, SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
        self.local_settings = Settings(client=False, initial_values=said)
        # A list that is too long, but can be read, gets an answer.
        self.fields = FieldDecoder(2 * settings.max_head_bytes)
        self.decoder = self.fields
        self.encoder = cast(Encoder, FieldEncoder())
        self.initiate_connection()
        # In a second SETTINGS frame, for it holds once the client has acknowledged it, and before, the client cannot know it.
        self.update_settings(
            {
                SettingCodes.MAX_CONCURRENT_STREAMS: settings.http2_streams,
                SettingCodes.INITIAL_WINDOW_SIZE: settings.read_buffer_bytes,
            }
        )
        if settings.http2_window_bytes > _FIRST_WINDOW:
            self.increment_flow_control_window(settings.http2_window_bytes - _FIRST_WINDOW)
