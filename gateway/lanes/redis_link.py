"""The one connection of a process to Redis or Valkey, and the script that keeps the windows there; the only file that knows redis-py.

The script is the arithmetic of `windows.Bucket` with the server's clock: the processes' own clocks need not agree. It takes from every
bucket of a request or from none. A bucket that would be full again expires, which is the same as being full.
"""

from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.lanes.shared_windows import Answer, Call, LinkDown

CONNECT_S_MAX = 1.0  # in the background: it holds up no request

# KEYS: buckets of one tenant. ARGV: 1 to refuse where a unit is missing or 0 to take all the same, then limit and units for each bucket.
# Answers 1 or 0 for taken, the server's time, and what each bucket holds. Levels are units x 60,000,000, as in `windows.Bucket`; Lua's
# numbers are doubles, exact to 2^53: to 150 million units a minute, and beyond it off by less than a thousandth of a unit.
SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local levels, ats, taken = {}, {}, 1
for i, key in ipairs(KEYS) do
  local limit = tonumber(ARGV[2 * i])
  local level, at = limit * 60000000, now
  local kept = redis.call('GET', key)
  if kept then
    local was, when = string.match(kept, '^(%S+) (%S+)$')
    at = tonumber(when)
    local refilled = tonumber(was)
    if now > at then
      refilled, at = refilled + (now - at) * limit, now
    end
    level = math.min(level, refilled)
  end
  if ARGV[1] == '1' and level < 60000000 then taken = 0 end
  levels[i], ats[i] = level, at
end
local answer = {taken, string.format('%.0f', now)}
for i, key in ipairs(KEYS) do
  local limit, units = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  if taken == 1 and units > 0 then
    levels[i] = levels[i] - units * 60000000
    local full_ms = math.ceil(((limit * 60000000 - levels[i]) / limit + ats[i] - now) / 1000) + 1
    redis.call('SET', key, string.format('%.0f %.0f', levels[i], ats[i]), 'PX', string.format('%.0f', full_ms))
  end
  answer[i + 2] = string.format('%.0f', levels[i])
end
return answer
"""


class RedisLink:
    """Opens, uses and drops one connection. The settings have seen to it that the URL is one."""

    def __init__(self, url: str) -> None:
        self._pool = ConnectionPool.from_url(url, socket_connect_timeout=CONNECT_S_MAX, socket_timeout=None, retry=Retry(NoBackoff(), 0), protocol=2)
        self._connection: AbstractConnection | None = None
        self._sha = b""

    async def open(self) -> None:
        """Connect anew and bring the script. Raises `LinkDown`."""
        await self.drop()
        self._connection = connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()
            await connection.send_command("SCRIPT", "LOAD", SCRIPT)
            self._sha = await connection.read_response(disable_decoding=True)
        except (RedisError, OSError) as error:
            raise LinkDown(_said(error)) from error

    async def run(self, calls: Sequence[Call]) -> list[Answer]:
        """Run the script for each call, all in one round trip, and return what each answered. Raises `LinkDown`; some may have run then."""
        connection = self._connection
        if connection is None:
            raise LinkDown("not connected")
        try:
            await connection.send_packed_command(connection.pack_commands([self._command(call) for call in calls]), check_health=False)
            answers: list[Any] = [await connection.read_response(disable_decoding=True) for _ in calls]
        except (RedisError, OSError) as error:  # also an error of the script: what follows it in the stream is of no use any more
            raise LinkDown(_said(error)) from error
        return [Answer(bool(taken), int(now), tuple(int(level) for level in levels)) for taken, now, *levels in answers]

    async def drop(self) -> None:
        """Close the connection, without waiting for the other end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    def _command(self, call: Call) -> list[Any]:
        words: list[Any] = ["EVALSHA", self._sha, len(call.names), *call.names, int(call.checked)]
        for limit, units in zip(call.limits, call.units, strict=True):
            words += (limit, units)
        return words


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
