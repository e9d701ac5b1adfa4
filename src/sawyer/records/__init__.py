"""temporary"""
from sawyer.records.types import *  # noqa
from sawyer.records.types import prompt_of
