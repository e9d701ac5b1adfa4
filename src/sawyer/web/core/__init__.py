"""What every page needs: who may ask, static files, events, starting and stopping."""

from sawyer.web.core.application import create_app
from sawyer.web.core.event_stream import EventStream
from sawyer.web.core.json_bodies import RequestError, error_response, json_response, read_json
from sawyer.web.core.pages import Endpoint, Page, static_table, theme_file
from sawyer.web.core.request_checks import bearer_token, is_owner
from sawyer.web.core.server import RunningServer, serve
from sawyer.web.core.server_settings import ServerSettings, is_loopback, lan_address, new_token
