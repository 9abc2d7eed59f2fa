"""The routes, a few lines each."""

from aiohttp import web

from aiopypay.database import Database
from aiopypay.group_commit import GroupCommit
from aiopypay.passwords import Passwords
from aiopypay.settings import Settings

DATABASE: web.AppKey[Database] = web.AppKey("database", Database)
GROUP_COMMIT: web.AppKey[GroupCommit] = web.AppKey("group_commit", GroupCommit)
PASSWORDS: web.AppKey[Passwords] = web.AppKey("passwords", Passwords)
SETTINGS: web.AppKey[Settings] = web.AppKey("settings", Settings)
